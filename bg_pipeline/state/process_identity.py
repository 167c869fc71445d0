"""Unique names of processes, and whether a named process of this machine has ended."""

import hashlib
import os
import re
import socket
from pathlib import Path


def process_name() -> str:
    """A unique name of this process: host, process id, start time and PID namespace, joined by ``.``.

    No other process ever has the same name. It is safe in an S3 key. The last two parts are empty without ``/proc``.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:60] or "unnamed"
    return f"{host}.{os.getpid()}.{_start_time(os.getpid())}.{_namespace()}"


def is_dead(name: str) -> bool:
    """True only if the named process has certainly ended; always False for processes of other machines.

    It lets the next run on the same machine take over from a killed run at once instead of after a timeout.
    """
    parts = name.split(".")
    if (
        len(parts) != 4
        or not parts[1].isdecimal()
        or not parts[2]
        or not parts[3]
        or parts[3] != _namespace()
    ):
        return False
    pid = int(parts[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _start_time(pid) not in ("", parts[2])


def _namespace() -> str:
    """A hash that is equal for processes that see each other's PIDs, and different for another boot, container or
    host.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:8]


def _start_time(pid: int) -> str:
    """The start time of a process in clock ticks since boot; "zombie" if it has ended, empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the program name in brackets; it may itself contain brackets and spaces.
    fields = stat.rpartition(")")[2].split()
    return "zombie" if fields[0] in "ZX" else fields[19]
