"""Between the servers and the policy: questions from what they know, refusals in their words, log and metrics."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cluster.access.addresses import address_check
from cluster.access.asking import Action, Answer, Asked, Check, Credentials, Verdict
from cluster.access.keys import KeyCheck
from cluster.access.policy import THROTTLED, Policy
from cluster.access.rules import KeyEntry, Rule
from cluster.access.signed import SignedCheck
from cluster.access.throttle import Throttle
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hook, Hooks, Request
from pyrtmp.names import StreamKey

if TYPE_CHECKING:
    from cluster.access.jwks import Jwks
    from cluster.config.settings import AccessSettings

_CODES: Final = {Action.PUBLISH: "NetStream.Publish.Denied", Action.PLAY: "NetStream.Play.Failed"}
_WORDS: Final = "This needs a permission that you have not shown."
"""All that a client is told: neither what would have done, nor whether the stream is there."""

_HOOK_ALLOWS: Final = Verdict(True, until=0.0)
"""It may have looked at anything, a cookie for one, so it is asked again each time."""


class Gate:
    """Decides for one process.

    ``hooks`` are the embedding program's: ``hook`` in a rule asks them, and they decide what no rule names.  ``more``
    holds further checks by name; ``callback``, if it is there, is asked about everything while there are no rules.
    """

    def __init__(
        self,
        settings: AccessSettings,
        hooks: Hooks | None = None,
        *,
        more: Mapping[str, Check] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._hooks = hooks or Hooks()
        self._more = dict(more or {})
        self._now = now
        self._jwks: Jwks | None = None
        self._retired: list[Jwks] = []
        self._throttle = Throttle(settings.failures_per_minute)
        self._settings = settings
        self._policy = self._build(settings)

    def configure(self, settings: AccessSettings, *, more: Mapping[str, Check] | None = None) -> None:
        """Decide by other settings from now on, and other checks where ``more`` is given; whoever is in stays."""
        more = self._more if more is None else dict(more)
        if settings != self._settings or more != self._more:
            self._settings = settings
            self._more = more
            self._throttle.per_minute = settings.failures_per_minute
            if self._jwks is not None:
                self._retired.append(self._jwks)
            self._policy = self._build(settings)

    async def close(self) -> None:
        """Stop what is under way."""
        for jwks in (*self._retired, *(() if self._jwks is None else (self._jwks,))):
            await jwks.close()

    def _build(self, settings: AccessSettings) -> Policy:
        checks: dict[str, Check] = {
            "key": KeyCheck(KeyEntry.parse(each) for each in settings.keys),
            "signed": SignedCheck(settings.signing_secrets),
            "hook": self._ask_hook,
            **self._more,
        }
        self._jwks = None
        if settings.has_token_keys:
            # Only who uses tokens pays for what reads them.
            from cluster.access.jwks import Jwks
            from cluster.access.tokens import TokenCheck, TokenRules, public_key, secret_key

            keys = []
            if settings.token_secret is not None:
                keys.append(secret_key(settings.token_secret.get_secret_value()))
            if settings.token_key is not None:
                keys.append(public_key(settings.token_key.get_secret_value()))
            if settings.token_jwks is not None:
                self._jwks = Jwks(settings.token_jwks)
            rules = TokenRules(
                algorithms=settings.token_algorithms, claim=settings.token_claim,
                issuer=settings.token_issuer or "", audience=settings.token_audience or "",
            )
            checks["token"] = TokenCheck(rules, keys, self._jwks)
        default = address_check(settings.default)
        callback = None if settings.rules else self._more.get("callback")

        def by_default(asked: Asked) -> Answer | Awaitable[Answer]:
            if self._hook(asked) is not None:
                return self._ask_hook(asked)
            if callback is None:
                return default(asked)
            if asked.action is Action.PUBLISH and self._throttle.blocked(asked.guesser):
                return THROTTLED
            answer = callback(asked)
            return default(asked) if answer is None else answer

        return Policy(
            [Rule.parse(each) for each in settings.rules], checks, by_default, throttle=self._throttle,
            remember_seconds=settings.remember_seconds,
        )

    # The servers' side (pyrtmp.hooks)

    def hooks(self) -> Hooks:
        """What an RTMP server and a viewers' site ask; where everything is open they are not made to ask."""
        if not self._settings.rules and self._settings.default == "allow" and "callback" not in self._more:
            return self._hooks
        return replace(self._hooks, on_publish=self._on_publish, on_play=self._on_play)

    def _on_publish(self, request: Request) -> Awaitable[StreamKey | None] | StreamKey | None:
        return self._admit(Action.PUBLISH, request)

    def _on_play(self, request: Request) -> Awaitable[StreamKey | None] | StreamKey | None:
        return self._admit(Action.PLAY, request)

    def _admit(self, action: Action, request: Request) -> Awaitable[StreamKey | None] | StreamKey | None:
        if request.admitted_by:
            return None  # by the rules of that node, which its client came to
        asked = Asked(
            action, request.key, request.address, Credentials.read(request.query, _authorization(request)),
            self._now(), request,
        )
        verdict = self._policy.decide(asked)
        return _obey(asked, verdict) if isinstance(verdict, Verdict) else _obey_later(asked, verdict)

    def decides(self, action: Action, key: StreamKey) -> bool:
        """Whether rules, a default that refuses or a hook say who may do that."""
        asked = Asked(action, key, "", Credentials(), 0.0)
        return self._settings.default != "allow" or self._hook(asked) is not None or self._policy.covers(asked)

    # The API's side

    def covers_api(self, action: Action) -> bool:
        """Whether a rule says who may do that."""
        return self._policy.covers(Asked(action, None, "", Credentials(), 0.0))

    async def decide_api(self, action: Action, address: str, credentials: Credentials) -> Verdict:
        """Whether it may."""
        verdict = self._policy.decide(Asked(action, None, address, credentials, self._now()))
        return verdict if isinstance(verdict, Verdict) else await verdict

    @property
    def throttle(self) -> Throttle:
        """Who has been wrong too often."""
        return self._throttle

    # The check "hook"

    def _hook(self, asked: Asked) -> Hook | None:
        return {Action.PUBLISH: self._hooks.on_publish, Action.PLAY: self._hooks.on_play}.get(asked.action)

    def _ask_hook(self, asked: Asked) -> Answer | Awaitable[Answer]:
        hook = self._hook(asked)
        if hook is None or asked.request is None:
            return None
        try:
            answer = hook(asked.request)
        except RefusedError as error:
            return Verdict(False, error.reason or "hook", error=error)
        return _allows(answer) if answer is None or isinstance(answer, StreamKey) else _await_hook(answer)


async def _await_hook(answer: Awaitable[StreamKey | None]) -> Verdict:
    try:
        return _allows(await answer)
    except RefusedError as error:
        return Verdict(False, error.reason or "hook", error=error)


def _allows(instead: StreamKey | None) -> Verdict:
    return _HOOK_ALLOWS if instead is None else replace(_HOOK_ALLOWS, instead=instead)


def _obey(asked: Asked, verdict: Verdict) -> StreamKey | None:
    """What it may have instead.  Raises ``RefusedError`` with what the client is told and, for log and metrics, why.
    """
    if verdict.allowed:
        return verdict.instead
    if isinstance(verdict.error, RefusedError):
        raise verdict.error
    raise RefusedError(
        _CODES[asked.action], _WORDS, reason=verdict.reason, detail=verdict.detail, status=http_status(asked, verdict)
    )


async def _obey_later(asked: Asked, verdict: Awaitable[Verdict]) -> StreamKey | None:
    return _obey(asked, await verdict)


def http_status(asked: Asked, verdict: Verdict) -> int:
    """Of a refusal: whether anything was shown is no secret to who did not; all else is one and the same."""
    if verdict.reason == "throttled":
        return 429
    return 403 if asked.credentials else 401


def _authorization(request: Request) -> str:
    if request.protocol == "rtmp":
        return ""
    return next((str(value) for name, value in request.parameters.items() if name.lower() == "authorization"), "")
