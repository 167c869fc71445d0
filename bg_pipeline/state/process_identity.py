"""Which process this is, and whether another one on this machine has died."""

import hashlib
import os
import re
import socket
from pathlib import Path


def process_name() -> str:
    """A name for this process that no other process has or had: host, process id, start time, machine.

    Four parts joined by ``.``, safe inside an S3 key. The last two are empty where ``/proc`` is missing.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:60] or "unnamed"
    return f"{host}.{os.getpid()}.{_started(os.getpid())}.{_namespace()}"


def is_dead(name: str) -> bool:
    """True only if it is certain that the process of this name has ended; False for any other machine's.

    A killed run is so found at once by the next run on the same machine, not only after a time-out.
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
    return _started(pid) not in ("", parts[2])


def _namespace() -> str:
    """The same for processes that can see each other's ids, different in any other boot, container or host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{socket.gethostname()} {boot} {namespace}".encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """When the kernel started this process, in ticks since boot; "zombie" if it has ended; empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is the program's name in brackets and may itself hold brackets and spaces.
    fields = stat.rpartition(")")[2].split()
    return "zombie" if fields[0] in "ZX" else fields[19]
