"""Compiles what the image's processes import, so that a container with a read-only root need not do so at each start.

Only that: the bytecode of everything that is installed would be 120 MB. It also proves, while the image is built,
that nothing which was taken out of the packages is needed.
"""

import importlib
import py_compile
import sys

PROCESSES = (
    # Dagster: command line, webserver, daemon, code server, runs on ECS, history in PostgreSQL.
    *("dagster._cli", "dagster._daemon.cli", "dagster._grpc.server", "dagster._core.workspace.load"),
    *(
        "dagster_webserver.cli",
        "dagster_webserver.app",
        "dagster_aws.ecs",
        "dagster_aws.s3.compute_log_manager",
    ),
    *("dagster_postgres", "psycopg2", "grpc_health.v1.health_pb2_grpc", "alembic.command"),
    *("dagster._core.storage.sqlite_storage", "dagster._core.storage.local_compute_log_manager"),
    # The pipeline, its command line, API and page.
    *(
        "bg_pipeline.definitions",
        "bg_pipeline.cli.main",
        "bg_pipeline.pipeline",
        "bg_pipeline.imaging.worker_process",
    ),
    *("bg_pipeline.web.api", "bg_pipeline.web.connections", "uvicorn.loops.auto", "uvicorn.lifespan.on"),
    *("uvicorn.protocols.websockets.auto", "uvicorn.protocols.http.auto", "jwt.algorithms"),
    *(
        "streamlit.web.cli",
        "streamlit.web.bootstrap",
        "streamlit.testing.v1",
        "authlib.integrations.starlette_client",
    ),
    # Libraries that are imported when they are first needed.
    *(
        "cv2",
        "onnxruntime",
        "pyvips",
        "pillow_heif",
        "simplejpeg",
        "obstore.store",
        "pandas",
        "pyarrow.compute",
    ),
    *("pyarrow.ipc", "altair", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin", "PIL.GifImagePlugin"),
    # The stand-in for AWS.
    *(
        "bg_pipeline_local_aws.server",
        "bg_pipeline_local_aws.launcher",
        "bg_pipeline_local_aws.storage",
        "ministack.app",
    ),
)


def main() -> None:
    sys.dont_write_bytecode = True
    for name in PROCESSES:
        importlib.import_module(name)
    compiled = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None) or ""
        if file.endswith(".py") and file.startswith(sys.prefix) and file not in compiled:
            compiled.add(file)
            py_compile.compile(
                file, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
    sys.stdout.write(f"{len(compiled)} modules compiled\n")


if __name__ == "__main__":
    main()
