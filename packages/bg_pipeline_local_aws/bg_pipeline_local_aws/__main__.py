"""``python -m bg_pipeline_local_aws [FOLDER]``: the stand-in in the foreground, until Ctrl-C."""

import argparse
import shlex
import signal
import sys
import threading
from pathlib import Path

from bg_pipeline_local_aws import storage
from bg_pipeline_local_aws.launcher import LocalAwsError, local_aws


def main() -> int:
    """Run what the launcher started this process for, or the launcher itself."""
    if sys.argv[1:2] == ["storage"]:
        storage.serve(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["models"]:
        # Only this process needs the web framework.
        from bg_pipeline_local_aws import server

        server.serve(int(sys.argv[2]), int(sys.argv[4]))
    else:
        return foreground()
    return 0


def foreground() -> int:
    """Start both servers, print the variables that lead boto3 to them, and wait for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bg_pipeline_local_aws", description="An embedded stand-in for AWS."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(".bg_pipeline/local_aws"), help="where its state is kept"
    )
    parser.add_argument("--region", default="us-east-1")
    options = parser.parse_args()
    # Whoever asks this process to end gets an orderly end, as with Ctrl-C.
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
