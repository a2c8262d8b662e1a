"""Who is asked and told what: between the server's hooks and one dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from cluster.access.asking import Action, Answer, Asked, Check, Verdict
from cluster.callbacks.events import AnswerError, Decision, Dialect, Event, Segment, Subject
from cluster.callbacks.mediamtx import Mediamtx
from cluster.callbacks.nginx_rtmp import NginxRtmp
from cluster.callbacks.notifications import Notifications
from cluster.callbacks.pacing import RateLimiter
from cluster.callbacks.posting import Poster
from cluster.callbacks.sessions import HlsSessions
from cluster.callbacks.srs import Srs
from pyrtmp.errors import RedirectedError, RefusedError
from pyrtmp.hooks import Hook, Hooks, Request
from pyrtmp.journal import Journal
from pyrtmp.names import StreamKey, make_key, problem

if TYPE_CHECKING:
    from cluster.config.settings import CallbackSettings
    from cluster.recording.facts import Recorded

WAITING: Final = 8
"""For each question that is being asked so many may wait for their turn."""

_DIALECTS: Final[Mapping[str, Callable[[str], Dialect]]] = {
    "srs": Srs, "nginx-rtmp": lambda node: NginxRtmp(), "mediamtx": lambda node: Mediamtx(),
}  # fmt: skip
_QUESTIONS: Final = {
    Action.PUBLISH: Event.PUBLISH, Action.PLAY: Event.PLAY, Action.API_READ: Event.API, Action.API_WRITE: Event.API,
}  # fmt: skip
_MAX_NAME_BYTES: Final = 1024
"""Of a stream that a back end names."""
_WORDS: Final = "The server does not take this connection."


class _BackEnd:
    """One set of settings: a dialect, where to ask, and how many at once."""

    def __init__(self, settings: CallbackSettings, node: str, poster: Poster) -> None:
        self._poster = poster
        dialect = self._dialect = _DIALECTS[settings.dialect](node)
        self._urls = {event: settings.urls[event] for event in Event if event in dialect.events & settings.urls.keys()}
        self._seconds = settings.deadline_seconds
        self._secret = settings.signing_secret
        self._turn = asyncio.Semaphore(settings.concurrency)
        self._rate = RateLimiter(settings.per_second)
        self._most = settings.concurrency * (1 + WAITING)
        self._asking = 0
        self.allow_on_failure = settings.on_failure == "allow"

    def knows(self, event: Event) -> bool:
        """Whether there is a word and a URL for it."""
        return event in self._urls

    async def ask(self, event: Event, subject: Subject) -> Decision:
        """When it is its turn.  Raises ``AnswerError``."""
        if self._asking >= self._most:
            raise AnswerError(f"{self._asking} questions wait for their answers already")
        self._asking += 1
        try:
            async with asyncio.timeout(self._seconds), self._turn:
                return await self.send(event, subject)
        except TimeoutError:
            raise AnswerError(f"no answer within {self._seconds:g} s") from None
        finally:
            self._asking -= 1

    async def send(self, event: Event, subject: Subject) -> Decision:
        """As soon as the rate allows it.  Raises ``AnswerError``."""
        dialect = self._dialect
        await self._rate.turn()
        reply = await self._poster.post(
            self._urls[event], dialect.content_type, dialect.write(event, subject), secret=self._secret,
            seconds=self._seconds, answer_bytes=dialect.answer_bytes,
        )  # fmt: skip
        if reply.status >= 500:
            raise AnswerError(f"the back end answered {reply.status}")
        return dialect.read(event, reply)


class Callbacks:
    """The back end of ``settings``, as one process asks and tells it.

    ``node`` is what this one is called there.  ``watching`` says after how many silent seconds an HLS player has left,
    ``publisher`` who publishes a stream here.
    """

    def __init__(
        self,
        settings: CallbackSettings,
        *,
        node: str,
        journal: Journal,
        watching: Callable[[], float],
        publisher: Callable[[StreamKey], Request | None] = lambda key: None,
    ) -> None:
        self._node = node
        self._journal = journal
        self._publisher = publisher
        self._settings = settings
        self._poster = Poster()
        self._back_end = _BackEnd(settings, node, self._poster)
        self._notifications = Notifications(journal)
        self._notifications.retries = settings.retries
        self._sessions = HlsSessions(watching, partial(self._ended, Event.STOP))

    def configure(self, settings: CallbackSettings) -> None:
        """Ask and tell by other settings from now on."""
        if settings != self._settings:
            self._settings = settings
            self._back_end = _BackEnd(settings, self._node, self._poster)
            self._notifications.retries = settings.retries

    async def close(self) -> None:
        """Tell what there is to tell, for a moment at most.  Everybody else has left by now."""
        self._sessions.close()
        await self._notifications.close()
        await self._poster.close()

    # For cluster.access.gate

    @property
    def checks(self) -> dict[str, Check]:
        """The check ``callback``, if anybody is asked who may publish or play."""
        asks = any(self._back_end.knows(event) for event in _QUESTIONS.values())
        return {"callback": self.check} if asks else {}

    def asks(self, action: Action) -> bool:
        """Whether the back end is asked who may do that."""
        return self._back_end.knows(_QUESTIONS[action])

    def check(self, asked: Asked) -> Answer | Awaitable[Answer]:
        """See ``cluster.access.asking.Check``."""
        event, request = _QUESTIONS[asked.action], asked.request
        if not self._back_end.knows(event):
            return None
        if request is None:
            shown = asked.credentials.token or asked.credentials.key
            return self._decide(event, Subject(address=asked.address, authorization=f"Bearer {shown}" if shown else ""))
        subject = Subject.of(request)
        ask = partial(self._decide, event, subject)
        return self._sessions.admit(subject, ask) if request.protocol == "hls" else ask()

    async def _decide(self, event: Event, subject: Subject) -> Verdict:
        """For this one question: what the back end said before does not count."""
        try:
            decision = await self._back_end.ask(event, subject)
        except AnswerError as error:
            if self._back_end.allow_on_failure and event is not Event.API:
                self._journal.warning("callback_failed", what=f"{event} {subject.path}", error=str(error))
                return Verdict(True, until=0.0)
            return Verdict(False, "callback_failed", str(error))
        if decision.url:
            return Verdict(False, "sent_elsewhere", error=RedirectedError(decision.url))
        if not decision.allowed:
            # To many back ends the name or the query is the stream key; players come back by themselves.
            return Verdict(False, "callback", "the back end refuses", guess=event is Event.PUBLISH)
        if not decision.name:
            return Verdict(True, until=0.0)
        if wrong := problem(f"{subject.app}/{decision.name}", _MAX_NAME_BYTES):
            return Verdict(False, "callback_failed", f"the back end has another name for it, but {wrong}")
        return Verdict(True, until=0.0, instead=make_key(subject.app, decision.name))

    # For the server

    def hooks(self, inner: Hooks) -> Hooks:
        """``inner``, and what goes to the back end after it."""
        return replace(
            inner,
            on_connect=self._on_connect(inner.on_connect),
            on_publish_done=self._on_done(Event.UNPUBLISH, inner.on_publish_done),
            on_play_done=self._on_done(Event.STOP, inner.on_play_done),
        )

    def _on_connect(self, inner: Hook | None) -> Hook | None:
        if not self._back_end.knows(Event.CONNECT):
            return inner

        async def on_connect(request: Request) -> None:
            answer = None if inner is None else inner(request)
            if isawaitable(answer):
                await answer
            verdict = await self._decide(Event.CONNECT, Subject.of(request))
            if not verdict.allowed:
                raise RefusedError(
                    "NetConnection.Connect.Rejected", _WORDS, reason=verdict.reason, detail=verdict.detail
                )

        return on_connect

    def _on_done(self, event: Event, inner: Callable[[Request], None] | None) -> Callable[[Request], None] | None:
        if not self._back_end.knows(event) and not self._back_end.knows(Event.DONE):
            return inner

        def on_done(request: Request) -> None:
            self._ended(event, Subject.of(request))
            if inner is not None:
                inner(request)

        return on_done

    def _ended(self, event: Event, subject: Subject) -> None:
        for each in (event, Event.DONE):
            self._tell(each, subject)

    def segment_made(self, key: StreamKey, segment: Segment) -> None:
        """HLS has one more of them."""
        if self._back_end.knows(Event.HLS):
            self._tell(Event.HLS, Subject.of(_request(key, self._publisher(key)), segment=segment))

    def recorded(self, key: StreamKey, request: Request | None, file: Recorded) -> None:
        """A file of that stream is complete; ``request`` is that of its publisher, None where it is not known."""
        if self._back_end.knows(Event.DVR):
            self._tell(Event.DVR, Subject.of(_request(key, request), file=file.path))

    def _tell(self, event: Event, subject: Subject) -> None:
        back_end = self._back_end
        if back_end.knows(event):
            self._notifications.send(f"{event} {subject.path}", partial(_send, back_end, event, subject))


def _request(key: StreamKey, publisher: Request | None) -> Request:
    """The publisher's, who may have asked for another name than that of the stream."""
    return Request("", "", "", key.app, key, "") if publisher is None else replace(publisher, key=key)


async def _send(back_end: _BackEnd, event: Event, subject: Subject) -> None:
    """Raises ``AnswerError`` where it is not accepted, too."""
    if not (await back_end.send(event, subject)).allowed:
        raise AnswerError("the back end does not accept it")
