"""Somebody who issues tokens: genuine ones, and forged ones byte by byte."""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tests.cluster.access.asking import NOW

SECRET = "a secret of the issuer, 32 or more"


@functools.cache
def key(kind: str) -> Key:
    """The issuer's private key for an algorithm."""
    if kind.startswith("ES"):
        return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[kind], {"kid": f"ec-{kind}"})
    if kind.startswith("Ed"):
        return OKPKey.generate_key("Ed25519", {"kid": "okp"})
    return RSAKey.generate_key(2048, {"kid": "rsa"})


def pem(kind: str) -> str:
    """Its public part."""
    text: bytes = key(kind).as_pem(private=False)
    return text.decode()


def b64(data: bytes | str | dict[str, Any]) -> str:
    """As a part of a token."""
    if isinstance(data, dict):
        data = json.dumps(data)
    return urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def claims(*permissions: dict[str, str], **more: Any) -> dict[str, Any]:
    """Claims that are good for a minute, by default for playing everything."""
    return {"exp": NOW + 60, "permissions": list(permissions or ({"action": "play"},)), **more}


def token(payload: dict[str, Any] | str, algorithm: str = "HS256", secret: str | bytes = SECRET, **header: Any) -> str:
    """Signed."""
    text = f"{b64({'alg': algorithm, 'typ': 'JWT', **header})}.{b64(payload)}"
    if algorithm.startswith("HS"):
        secret = secret.encode() if isinstance(secret, str) else secret
        signature = hmac.digest(secret, text.encode(), getattr(hashlib, f"sha{algorithm[2:]}"))
    else:
        private = key(algorithm)
        signature = jws.JWSRegistry.algorithms[algorithm].sign(text.encode(), private)
    return f"{text}.{b64(signature)}"


class Site:
    """Tells the public keys by HTTP, or whatever ``body``, ``status``, ``location`` and ``encoding`` say; counts who
    asks."""

    def __init__(self, *kinds: str) -> None:
        self.keys = [{**key(kind).as_dict(private=False), "use": "sig"} for kind in kinds]
        self.body: bytes | None = None
        self.status = 200
        self.location = ""
        self.encoding = ""
        self.asked: list[str] = []
        self._runner = web.ServerRunner(web.Server(self._answer))

    async def start(self) -> str:
        """The URL of the keys."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/keys"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path)
        headers = {"Location": self.location} if self.location else {}
        if self.encoding:
            headers["Content-Encoding"] = self.encoding
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        return web.Response(status=self.status, body=body, headers=headers)
