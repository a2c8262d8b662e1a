"""Tokens: JWT (RFC 7519) signed by whoever knows the users.

A token is worth what its claim of permissions says, a list as MediaMTX has it::

    {"exp": 1900000000, "permissions": [{"action": "play", "path": "live/*"}, {"action": "api-read"}]}

``read`` is another word for ``play``.  A path is a pattern; without one the permission is for every stream.

The algorithm is not the token's to choose (RFC 8725, 3.1): it must be one of the allowed, and a key serves only the
algorithms of its own type, so that a public key never is taken for the secret of an HMAC.  Of the header only ``alg``
and ``kid`` are looked at; ``jku``, ``jwk`` and ``x5u`` are what an attacker would have us believe.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws
from joserfc.errors import ExpiredTokenError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jwt import ClaimsOption, JWTClaimsRegistry

from cluster.access.asking import Action, Answer, Asked, Verdict, refuse
from cluster.access.jwks import Jwks
from cluster.access.patterns import matches

MAX_TOKEN: Final = 4096
"""Longest token, in characters."""
MAX_PERMISSIONS: Final = 64
"""Permissions of one token that are looked at."""
LEEWAY_SECONDS: Final = 5
"""How far clocks may be apart."""
_MAX_TRIED: Final = 4
"""Keys that a token is tried with that does not say which is its own."""
_MAX_KID: Final = 256

_KEY_TYPES: Final = {
    "HS256": "oct", "HS384": "oct", "HS512": "oct",
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "EdDSA": "OKP", "Ed25519": "OKP",
}  # fmt: skip
ALGORITHMS: Final = tuple(_KEY_TYPES)
"""What there is to allow."""

_WORDS: Final = {"read": Action.PLAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must be like."""

    algorithms: Collection[str]
    claim: str
    """Name of the claim with the permissions."""
    issuer: str = ""
    """Value of iss; "": whatever it is."""
    audience: str = ""
    """One of the values of aud; "": whatever they are."""


def secret_key(secret: str) -> Key:
    """The key of the HS algorithms."""
    return OctKey.import_key(secret)


def public_key(pem: str) -> Key:
    """A public key as PEM.  Raises ``ValueError`` with the reason."""
    if "PRIVATE KEY" in pem:
        raise ValueError("is a private key; the node only needs the public one")
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            return kind.import_key(pem)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
    raise ValueError("is not a public key in PEM (RSA, EC or Ed25519)")


class TokenCheck:
    """Whether the token that a client shows permits what it wants.  ``keys`` are known, those of ``jwks`` fetched."""

    def __init__(self, rules: TokenRules, keys: Sequence[Key], jwks: Jwks | None = None) -> None:
        self._rules = rules
        self._keys = tuple(keys)
        self._jwks = jwks

    def __call__(self, asked: Asked) -> Answer | Awaitable[Answer]:
        token = asked.credentials.token
        if not token:
            return None
        try:
            header = _header(token)
        except ValueError as error:
            return refuse("bad_token", str(error), guess=True)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            return refuse("bad_token", "its algorithm is not allowed", guess=True)
        if kid is not None and (not isinstance(kid, str) or len(kid) > _MAX_KID):
            return refuse("bad_token", "its kid is not a short text", guess=True)
        keys = self._fitting(algorithm, kid)
        jwks = self._jwks
        if jwks is not None:
            jwks.keep_fresh()
            if not keys and _KEY_TYPES[algorithm] != "oct" and (fetch := jwks.begin()) is not None:
                return self._check_later(asked, algorithm, kid, fetch)
        return self._verify(asked, algorithm, keys)

    async def _check_later(self, asked: Asked, algorithm: str, kid: str | None, fetch: Awaitable[None]) -> Answer:
        """Somebody else may wait for the same keys: who leaves does not end the fetch."""
        await asyncio.shield(fetch)
        return self._verify(asked, algorithm, self._fitting(algorithm, kid))

    def _fitting(self, algorithm: str, kid: str | None) -> list[Key]:
        """The keys that may have signed it."""
        kind = _KEY_TYPES[algorithm]
        fetched = () if self._jwks is None else self._jwks.keys
        fitting = [key for key in self._keys if key.key_type == kind]
        fitting += [
            key for key in fetched
            if key.key_type == kind and kid in (None, key.kid) and key.alg in (None, algorithm)
        ]
        return fitting[:_MAX_TRIED]

    def _verify(self, asked: Asked, algorithm: str, keys: Sequence[Key]) -> Verdict:
        if not keys:
            if self._jwks is not None and not self._jwks.ready and _KEY_TYPES[algorithm] != "oct":
                return refuse("no_token_keys", "the keys at access.token_jwks could not be fetched")
            return refuse("bad_token", "no key fits it", guess=True)
        for key in keys:
            try:
                payload = jws.deserialize_compact(asked.credentials.token, key, registry=_Only(algorithm)).payload
            except (JoseError, ValueError, TypeError, RecursionError):
                continue
            return self._judge(asked, payload)
        return refuse("bad_token", "not signed with one of our keys", guess=True)

    def _judge(self, asked: Asked, payload: bytes | None) -> Verdict:
        """What the claims of a token that is genuine say."""
        rules = self._rules
        try:
            claims = json.loads(payload or b"")
        except (ValueError, RecursionError):
            claims = None
        if not isinstance(claims, dict):
            return refuse("bad_token", "its claims are not a JSON object")
        demands: dict[str, ClaimsOption] = {"exp": {"essential": True}}
        if rules.issuer:
            demands["iss"] = {"essential": True, "value": rules.issuer}
        if rules.audience:
            demands["aud"] = {"essential": True, "value": rules.audience}
        try:
            JWTClaimsRegistry(now=int(asked.now), leeway=LEEWAY_SECONDS, **demands).validate(claims)
        except ExpiredTokenError:
            return refuse("expired", "the token has ended")
        except (JoseError, ValueError, TypeError, OverflowError) as error:
            return refuse("token_claims", str(error))
        if not permits(claims.get(rules.claim), asked.action, asked.stream):
            return refuse("not_permitted", "the token does not permit this")
        return Verdict(True, until=claims["exp"], credential=True)


class _Only(jws.JWSRegistry):
    """The one algorithm that was found to be allowed."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> Any:
        """Without the warning that EdDSA has a newer name (RFC 9864), which few issuers use."""
        if name != self._algorithm:
            raise UnsupportedAlgorithmError()
        return self.algorithms[name]


def permits(permissions: Any, action: Action, stream: str) -> bool:
    """Whether the value of the claim holds that permission; anything that is not as it should be permits nothing."""
    if not isinstance(permissions, list):
        return False
    for each in permissions[:MAX_PERMISSIONS]:
        if not isinstance(each, dict):
            continue
        wanted, path = each.get("action"), each.get("path", "*") or "*"
        if not isinstance(wanted, str) or not isinstance(path, str):
            continue
        if _WORDS.get(wanted, wanted) == action and (not stream or matches(path, stream)):
            return True
    return False


def _header(token: str) -> dict[str, Any]:
    """The first part, which nobody has vouched for.  Raises ``ValueError``."""
    if len(token) > MAX_TOKEN:
        raise ValueError("it is too long")
    first, *others = token.split(".")
    if len(others) != 2:
        raise ValueError("it has not three parts")
    try:
        header = json.loads(urlsafe_b64decode(first.encode("ascii") + b"=" * (-len(first) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header
