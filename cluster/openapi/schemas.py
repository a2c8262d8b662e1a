"""JSON Schema (2020-12, as OpenAPI 3.1 has it) of Python types: plain ones, unions, literals, lists, dictionaries, and
TypedDicts and dataclasses, which are named under ``#/components/schemas``.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import types
import typing
from itertools import pairwise
from typing import Any, Final, Literal, NotRequired, is_typeddict

REF: Final = "#/components/schemas/"

_PLAIN: Final = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


class Schemas:
    """The schemas of some types and of all that they hold."""

    def __init__(self) -> None:
        self.components: dict[str, dict[str, Any]] = {}
        """Of the classes among them, by name."""
        self._classes: dict[str, Any] = {}

    def of(self, hint: Any) -> dict[str, Any]:
        """The schema of a type; raises ``TypeError`` for one that is not told as JSON."""
        if hint in _PLAIN:
            return {"type": _PLAIN[hint]}
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is NotRequired:
            return self.of(arguments[0])
        if origin in (types.UnionType, typing.Union):
            return self._union(arguments)
        if origin is Literal:
            return {"type": "string", "enum": list(arguments)}
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict and arguments[0] is str:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if is_typeddict(hint) or dataclasses.is_dataclass(hint):
            return self._named(hint)
        raise TypeError(f"{hint} has no schema")

    def _union(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if all(each in _PLAIN for each in arguments):
            # A whole number is a number too.
            kept = [each for each in arguments if not (each is int and float in arguments)]
            return {"type": [_PLAIN[each] for each in kept]}
        return {"anyOf": [self.of(each) for each in arguments]}

    def _named(self, cls: Any) -> dict[str, Any]:
        name = cls.__name__
        if self._classes.setdefault(name, cls) is not cls:
            raise TypeError(f"there are two classes called {name}")
        if name not in self.components:
            docs = _field_docs(cls)
            schema = self.components[name] = {"type": "object", "description": summary(cls)}
            properties: dict[str, Any] = {}
            hints = typing.get_type_hints(cls, include_extras=True)
            for field, hint in hints.items():
                properties[field] = self.of(hint)
                if field in docs:
                    properties[field]["description"] = docs[field]
            schema["properties"] = properties
            # Not __required_keys__: it takes NotRequired for required where annotations are strings.
            schema["required"] = [field for field, hint in hints.items() if typing.get_origin(hint) is not NotRequired]
        return {"$ref": REF + name}


def summary(documented: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0].split()).replace("``", "")


def _field_docs(cls: Any) -> dict[str, str]:
    """The text under each field of a class, those that it inherits included; Python itself does not keep it."""
    tree = _classes_of(cls.__module__)

    def collect(name: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for base in tree[name].bases:
            if isinstance(base, ast.Name) and base.id in tree:
                found |= collect(base.id)
        body = tree[name].body
        for before, after in pairwise(body):
            match before, after:
                case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[field] = " ".join(text.split()).replace("``", "")
        return found

    return collect(cls.__name__)


@functools.cache
def _classes_of(module: str) -> dict[str, ast.ClassDef]:
    """TypedDict keeps no bases, so these are read from the source."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
