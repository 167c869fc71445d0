"""Ends with 0 if a process of this container answers: ``healthcheck.py http://127.0.0.1:3000/server_info``.

``grpc://127.0.0.1:4000`` asks Dagster's code server, by the standard health service of gRPC. The daemon listens on
nothing; for it there is ``dagster-daemon liveness-check``. It imports nothing of the pipeline, since it runs every
minute on a small CPU share.
"""

import sys
import urllib.request
from urllib.parse import urlsplit

SECONDS = 5.0


def healthy(address: str) -> bool:
    """Whether the address answers in time and says that it serves."""
    url = urlsplit(address)
    if url.scheme == "grpc":
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        with grpc.insecure_channel(url.netloc) as channel:
            question = health_pb2.HealthCheckRequest(service="DagsterApi")
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(question, timeout=SECONDS)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    if url.scheme != "http":
        raise SystemExit(f"{address} is neither http://… nor grpc://…")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: healthcheck.py ADDRESS")
    sys.exit(0 if healthy(sys.argv[1]) else 1)
