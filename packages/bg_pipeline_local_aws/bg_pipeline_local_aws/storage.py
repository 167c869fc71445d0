"""The storage server: MiniStack configured for S3, SQS, SNS and a few more, on loopback, with state on disk."""

import os
import sys
from pathlib import Path

from bg_pipeline_local_aws.launcher import end_with_parent

SERVICES = "s3,sqs,sns,sts,ssm,dynamodb,events"


def serve(port: int, folder: Path) -> None:
    """Serves on a loopback port until SIGTERM or until the parent process has ended.

    Objects are written to ``folder`` immediately; queues, topics and tables are written at SIGTERM.
    """
    for name in [name for name in os.environ if name.startswith(("MINISTACK_", "LOCALSTACK_"))]:
        del os.environ[name]
    (folder / "temporary").mkdir(exist_ok=True)
    os.environ |= {
        # Its default is to listen on every interface.
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
        # These would open further ports.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # Otherwise it removes Docker containers of other MiniStacks.
        "DOCKER_HOST": "unix:///nowhere",
    }
    sys.argv[1:] = []
    end_with_parent()
    # MiniStack reads its settings at import.
    from ministack.app import main

    main()
