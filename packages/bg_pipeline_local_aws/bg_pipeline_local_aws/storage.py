"""MiniStack, with the settings it needs here: S3, SQS, SNS and a few more, on loopback, kept on disk."""

import os
import sys
from pathlib import Path

from bg_pipeline_local_aws.child import end_with_parent

SERVICES = "s3,sqs,sns,sts,ssm,dynamodb,events"


def serve(port: int, folder: Path) -> None:
    """Serve on a loopback port until told to end, or until the process that started this one is gone.

    Objects are files under ``folder`` at once; queues, topics and tables are written when the server is told to end.
    """
    for name in [name for name in os.environ if name.startswith(("MINISTACK_", "LOCALSTACK_"))]:
        del os.environ[name]
    (folder / "temporary").mkdir(exist_ok=True)
    os.environ |= {
        # It listens on every interface unless told otherwise.
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": SERVICES,
        "PERSIST_STATE": "1",
        "S3_PERSIST": "1",
        "STATE_DIR": str(folder / "state"),
        "S3_DATA_DIR": str(folder / "s3"),
        "TMPDIR": str(folder / "temporary"),
        "LOG_LEVEL": "WARNING",
        "AUTH": "false",
        "USE_SSL": "",
        # These would listen on ports of their own.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # It would look for containers of other MiniStacks and remove them.
        "DOCKER_HOST": "unix:///nowhere",
    }
    sys.argv[1:] = []
    end_with_parent()
    # Its settings are read when it is imported.
    from ministack.app import main

    main()
