"""Ending with one's parent: what every process of the stand-in does, however the parent ended."""

import os
import select
import signal
import sys
import threading
import time

# MiniStack writes its state when it is told to end; after this many seconds it has had its chance.
GRACE_SECONDS = 15


def end_with_parent() -> None:
    """Send this process SIGTERM once its standard input is closed or its parent is another; kill it if that fails.

    The parent holds the other end of the standard input for as long as it lives. Its number is looked at as well,
    because a process that the parent forked would hold that end, too.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            if select.select([sys.stdin], [], [], 1.0)[0] and not os.read(sys.stdin.fileno(), 4096):
                break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
