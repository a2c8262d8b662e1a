"""The OpenAPI 3.1 document: ``GET /api/v1/openapi.json``, and ``config/openapi.json``."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cluster.openapi import answers
from cluster.openapi.schemas import Schemas, summary

Method = Literal["get", "post", "delete"]

PATH: Final = "/api/v1/openapi.json"

_TEXT: Final = "text/plain"
_JSON: Final = "application/json"
_ANYTHING: Final[Mapping[str, Mapping[str, Any]]] = {_TEXT: {"type": "string"}, _JSON: {"type": "object"}}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: Method
    path: str
    summary: str
    answer: type | None
    """The fields beside ``answers.Envelope``; None for what is no JSON of this kind."""
    parameters: tuple[Mapping[str, Any], ...] = ()
    errors: tuple[tuple[int, str], ...] = ()
    """Statuses of refusals, beside those about permission, and when."""
    content_type: str = _JSON


def _parameter(name: str, place: Literal["query", "path"], about: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": about, "schema": schema}


_APP = _parameter("app", "path", "the application; it may hold slashes, written as they are", {"type": "string"})
_NAME = _parameter("name", "path", "the stream's name", {"type": "string"})
_ID = _parameter("id", "path", "as the list of clients has it", {"type": "string"})
_PART = (
    _parameter("start", "query", "entries to leave out", {"type": "integer", "minimum": 0, "default": 0}),
    _parameter(
        "count", "query", "most entries",
        {"type": "integer", "minimum": 0, "maximum": answers.MAX_COUNT, "default": answers.DEFAULT_COUNT},
    ),
)  # fmt: skip
_STREAM = {**_parameter("stream", "query", "app/name", {"type": "string"}), "required": True}
_PLACED = (
    _STREAM,
    _parameter("kind", "query", "for whom", {"type": "string", "enum": ["publish", "play"], "default": "publish"}),
)
_NO_STREAM = ((404, "there is no such stream"),)
_NO_CLIENT = ((404, "there is no such client"),)
_BAD_QUERY = ((400, "the query is wrong"),)
_NOT_HERE = ((404, "nobody publishes such a stream to this node"),)
_BODY = ((415, "there is no Content-Type: application/json, which keeps web pages from asking this"),)

OPERATIONS: Final = (
    Operation("get", "/healthz", "Whether the node lives", None, content_type=_TEXT),
    Operation(
        "get", "/readyz", "Whether new clients are welcome", None, content_type=_TEXT,
        errors=((503, "the node drains"),),
    ),
    Operation("get", "/metrics", "Metrics for Prometheus", None, content_type=_TEXT),
    Operation("get", PATH, "This document", None),
    Operation("get", "/api/v1/version", "The version of the node", answers.VersionAnswer),
    Operation("get", "/api/v1/versions", "The same, where SRS has it", answers.VersionAnswer),
    Operation("get", "/api/v1/summaries", "The node as a whole", answers.SummaryAnswer),
    Operation("get", "/api/v1/workers", "Its worker processes", answers.WorkersAnswer),
    Operation("get", "/api/v1/streams", "Streams", answers.StreamsAnswer, _PART, _BAD_QUERY),
    Operation(
        "get", "/api/v1/streams/{app}/{name}", "One stream, with metadata and the stream doctor's findings",
        answers.StreamAnswer, (_APP, _NAME), _NO_STREAM,
    ),
    Operation(
        "delete", "/api/v1/streams/{app}/{name}", "End a stream: its publisher and viewers are let go", answers.Done,
        (_APP, _NAME), _NO_STREAM,
    ),
    Operation("get", "/api/v1/clients", "Clients", answers.ClientsAnswer, _PART, _BAD_QUERY),
    Operation("get", "/api/v1/clients/{id}", "One client", answers.ClientAnswer, (_ID,), _NO_CLIENT),
    Operation("delete", "/api/v1/clients/{id}", "Close a client's connection", answers.Done, (_ID,), _NO_CLIENT),
    Operation("get", "/api/v1/forwards", "What is passed on to other servers", answers.ForwardsAnswer),
    Operation("get", "/api/v1/pulls", "What is fetched from other nodes", answers.PullsAnswer),
    Operation("get", "/api/v1/recordings", "What is written to files", answers.RecordingsAnswer),
    Operation(
        "post", "/api/v1/recordings", "Write a stream to files, until its publisher leaves", answers.Done, (_STREAM,),
        (*_BAD_QUERY, *_NOT_HERE, *_BODY, (409, "there is no place for files")),
    ),
    Operation(
        "delete", "/api/v1/recordings", "Write a stream to files no longer, until its publisher leaves", answers.Done,
        (_STREAM,), (*_BAD_QUERY, *_NOT_HERE),
    ),
    Operation("get", "/api/v1/nodes", "The nodes that the registry knows", answers.NodesAnswer),
    Operation(
        "get", "/api/v1/explain", "Who has a stream, who fetches it, who was refused", answers.ExplainAnswer,
        (_STREAM,), _BAD_QUERY,
    ),
    Operation(
        "get", "/api/v1/place", "The node that should take a publisher or viewer", answers.PlaceAnswer, _PLACED,
        (*_BAD_QUERY, (503, "no node can; error says why")),
    ),
    Operation(
        "post", "/api/v1/reload", "Read the settings again", answers.ReloadAnswer,
        errors=(*_BODY, (409, "the settings stay as they are; problems says why")),
    ),
    Operation(
        "post", "/api/v1/restart", "Replace the worker processes, one after the other", answers.Done,
        errors=(*_BODY, (409, "there are none, or that is being done")),
    ),
    Operation(
        "post", "/api/v1/drain", "Take nobody new, let everybody go, and end", answers.Done,
        errors=(*_BODY, (409, "that is being done")),
    ),
)  # fmt: skip
"""All of them but the console's files."""

_OPEN: Final = ("/healthz", "/readyz")
"""Answered to everybody."""

_PERMISSION: Final = (
    (401, "the token is missing or wrong"),
    (403, "not permitted; without a token, the API is asked by address or as localhost"),
    (421, "asked by a name that is not in api.hosts"),
    (429, "too many requests or wrong tokens from this address"),
)


@functools.cache
def document() -> Mapping[str, Any]:
    """The whole of it, as JSON has it.  Not to be changed."""
    schemas = Schemas()
    refused = {str(status): _response(when, _JSON, schemas.of(answers.Error)) for status, when in _PERMISSION}
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = _operation(each, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyrtmp",
            "version": "1",
            "description": "The operators' API of a node, at api.listen. Lists may be asked for with a slash at the "
            "end too. Answers may get more fields; those that there are stay.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "api.token, or what access.rules ask for; nothing where neither is set",
                }
            },
            "responses": refused,
            "schemas": dict(sorted(schemas.components.items())),
        },
    }


def reference() -> str:
    """The same as a file for people and programs."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation.summary}
    if operation.parameters:
        told["parameters"] = list(operation.parameters)
    if operation.method == "post":
        told["requestBody"] = {"required": False, "content": {_JSON: {"schema": {}}}}
    about, schema = operation.summary, _ANYTHING[operation.content_type]
    if operation.answer is not None:
        about = summary(operation.answer)
        schema = {"allOf": [schemas.of(answers.Envelope), schemas.of(operation.answer)]}
    responses = told["responses"] = {"200": _response(about, operation.content_type, schema)}
    is_open = operation.path in _OPEN
    for status, when in operation.errors:
        responses[str(status)] = (
            _response(when, _TEXT, _ANYTHING[_TEXT]) if is_open else _response(when, _JSON, schemas.of(answers.Error))
        )
    if is_open:
        told["security"] = []
    else:
        responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status, _ in _PERMISSION}
    return told


def _response(about: str, content_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {content_type: {"schema": schema}}}
