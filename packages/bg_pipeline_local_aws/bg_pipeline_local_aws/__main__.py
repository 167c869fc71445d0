"""``python -m bg_pipeline_local_aws [FOLDER]`` runs the stand-in in the foreground until Ctrl-C."""

import argparse
import shlex
import signal
import sys
import threading
from pathlib import Path

from bg_pipeline_local_aws import storage
from bg_pipeline_local_aws.launcher import LocalAwsError, local_aws


def main() -> int:
    """Runs the server that the launcher started this process for, or else the launcher."""
    if sys.argv[1:2] == ["storage"]:
        storage.serve(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["models"]:
        # Imported here: only this process needs the web framework.
        from bg_pipeline_local_aws import server

        server.serve(int(sys.argv[2]), int(sys.argv[4]))
    else:
        return foreground()
    return 0


def foreground() -> int:
    """Starts both servers, prints the variables that direct boto3 to them, and waits for Ctrl-C; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bg_pipeline_local_aws", description="An embedded stand-in for AWS."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(".bg_pipeline/local_aws"), help="folder of its state"
    )
    parser.add_argument("--region", default="us-east-1")
    options = parser.parse_args()
    # SIGTERM stops the servers in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with local_aws(options.folder, region=options.region) as stand_in:
            for name, value in sorted(stand_in.variables().items()):
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
            sys.stdout.flush()
            threading.Event().wait()
    except LocalAwsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
