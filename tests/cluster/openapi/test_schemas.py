from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from cluster.openapi.schemas import Schemas
from tests.cluster.openapi.checking import faults


class Base(TypedDict):
    """What all have."""

    code: int
    """0 when all
    is well."""


@dataclass
class Part:
    """A part.

    Not told."""

    name: str
    """Its ``name``."""
    size: int | None


class Whole(Base):
    """A whole."""

    kind: Literal["a", "b"]
    parts: list[Part]
    extra: NotRequired[dict[str, float]]
    other: Part | None


def test_classes_with_their_texts() -> None:
    schemas = Schemas()
    assert schemas.of(Whole) == {"$ref": "#/components/schemas/Whole"}
    assert schemas.components == {
        "Whole": {
            "type": "object",
            "description": "A whole.",
            "properties": {
                "code": {"type": "integer", "description": "0 when all is well."},
                "kind": {"type": "string", "enum": ["a", "b"]},
                "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
                "extra": {"type": "object", "additionalProperties": {"type": "number"}},
                "other": {"anyOf": [{"$ref": "#/components/schemas/Part"}, {"type": "null"}]},
            },
            "required": ["code", "kind", "parts", "other"],
        },
        "Part": {
            "type": "object",
            "description": "A part.",
            "properties": {
                "name": {"type": "string", "description": "Its name."},
                "size": {"type": ["integer", "null"]},
            },
            "required": ["name", "size"],
        },
    }


@pytest.mark.parametrize("hint", [bytes, dict[int, str], tuple[int, ...], Any])
def test_what_is_not_told_as_json(hint: Any) -> None:
    with pytest.raises(TypeError, match="has no schema"):
        Schemas().of(hint)


def test_two_classes_of_one_name() -> None:
    schemas = Schemas()
    schemas.of(Part)
    with pytest.raises(TypeError, match="two classes called Part"):
        schemas.of(type("Part", (Part,), {}))


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, ""),
        ({"extra": {"x": 1.5, "y": 2}, "other": {"name": "n", "size": 1}}, ""),
        ({"code": True}, "answer.code: True is not"),
        ({"code": None}, "answer.code: None is not"),
        ({"kind": "c"}, "answer.kind: 'c' is none of"),
        ({"parts": [{"name": "n"}]}, "answer.parts[0]: no size"),
        ({"parts": {}}, "answer.parts: {} is not"),
        ({"extra": {"x": "1"}}, "answer.extra.x: '1' is not"),
        ({"other": {"name": "n", "size": 1.5}}, "answer.other: none of"),
        ({"more": 1}, "answer.more: is not told of"),
    ],
)
def test_the_checker_finds_what_does_not_conform(changed: dict[str, Any], fault: str) -> None:
    schemas = Schemas()
    schema = {"allOf": [schemas.of(Base), schemas.of(Whole)]}
    document = {"components": {"schemas": schemas.components}}
    value = {"code": 0, "kind": "a", "parts": [], "other": None, **changed}
    found = faults(value, schema, document)
    assert len(found) == bool(fault) and all(each.startswith(fault) for each in found), found
