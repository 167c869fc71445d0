"""An OpenID provider on loopback: discovery, keys, and the authorization code flow with a user who always agrees."""

import base64
import http.server
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "bg-pipeline"
SECRET = "the client's secret"
"""What a client proves itself with when it fetches tokens."""


@dataclass
class Provider:
    """A running provider; ``user`` are the claims of whoever signs in."""

    issuer: str
    key: rsa.RSAPrivateKey
    user: dict[str, Any] = field(default_factory=lambda: {"sub": "ada"})
    asked: list[dict[str, str]] = field(default_factory=list)
    """The queries of the sign-ins, in order."""

    def token(self, *, key: rsa.RSAPrivateKey | None = None, algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        said = {"iss": self.issuer, "aud": AUDIENCE, **self.user, "iat": now, "exp": now + 300, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, key or self.key, algorithm=algorithm, headers={"kid": "k1"})


@contextmanager
def openid_provider() -> Iterator[Provider]:
    """A provider with keys of its own, for as long as the block lasts."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k1", "use": "sig"}
    codes: dict[str, dict[str, str]] = {}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/authorize":
                self._agree({name: values[0] for name, values in parse_qs(url.query).items()})
            elif "well-known" in url.path:
                self._say(
                    {
                        "issuer": provider.issuer,
                        "jwks_uri": f"{provider.issuer}/keys",
                        "authorization_endpoint": f"{provider.issuer}/authorize",
                        "token_endpoint": f"{provider.issuer}/token",
                        "id_token_signing_alg_values_supported": ["RS256"],
                        "code_challenge_methods_supported": ["S256"],
                    }
                )
            else:
                self._say({"keys": [public]})

        def do_POST(self) -> None:
            sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked = codes.pop(sent["code"][0], None)
            proof = base64.b64encode(f"{AUDIENCE}:{SECRET}".encode()).decode()
            if asked is None or self.headers["Authorization"] != f"Basic {proof}":
                self._say({"error": "invalid_client"}, 401)
                return
            token = provider.token(nonce=asked["nonce"])
            self._say(
                {"access_token": "unused", "token_type": "Bearer", "expires_in": 300, "id_token": token}
            )

        def _agree(self, asked: dict[str, str]) -> None:
            provider.asked.append(asked)
            code = secrets.token_urlsafe()
            codes[code] = asked
            self.send_response(302)
            query = urlencode({"code": code, "state": asked["state"]})
            self.send_header("Location", f"{asked['redirect_uri']}?{query}")
            self.end_headers()

        def _say(self, body: dict[str, Any], status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    provider = Provider(f"http://127.0.0.1:{server.server_address[1]}", key)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
