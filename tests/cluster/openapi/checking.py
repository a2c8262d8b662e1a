"""JSON Schema, as far as ``cluster.openapi`` uses it.  Stricter in one: an answer has no field that is not told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
_KEYWORDS = {
    "$ref", "additionalProperties", "allOf", "anyOf", "description", "enum", "items", "properties", "required", "type",
}  # fmt: skip


def faults(value: Any, schema: Mapping[str, Any], document: Mapping[str, Any], where: str = "answer") -> list[str]:
    """What does not conform, in words."""
    assert set(schema) <= _KEYWORDS, f"{schema} says more than is looked at here"
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        tried = [faults(value, each, document, where) for each in schema["anyOf"]]
        return [] if [] in tried else [f"{where}: none of {tried}"]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(type(value) in _TYPES[name] for name in types):
        return [f"{where}: {value!r} is not {types}"]
    if value not in schema.get("enum", [value]):
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    if isinstance(value, list):
        items = (faults(item, schema["items"], document, f"{where}[{i}]") for i, item in enumerate(value))
        return [each for found in items for each in found]
    if not isinstance(value, dict) or schema == {"type": "object"}:
        return []
    found = [f"{where}: no {name}" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if inner is None:
            found.append(f"{where}.{name}: is not told of")
        else:
            found += faults(item, inner, document, f"{where}.{name}")
    return found


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without references, and what ``allOf`` has as one."""
    if "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return _resolved(found, document)
    if "allOf" in schema:
        parts = [_resolved(each, document) for each in schema["allOf"]]
        properties = {name: inner for part in parts for name, inner in part["properties"].items()}
        return {"type": "object", "properties": properties, "required": [n for part in parts for n in part["required"]]}
    return schema
