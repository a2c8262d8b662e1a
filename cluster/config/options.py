"""What can be set: one ``Option`` for every key of every section, found by looking at the dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, TypeAdapter, ValidationError

from cluster.config.settings import BOUNDS, Address, Config
from cluster.config.text import quantity, toml


@dataclass(frozen=True, slots=True)
class Option:
    """One key of one section."""

    section: str
    key: str
    default: Any
    computed: bool
    """Whether the default is found out at start."""
    doc: str
    hint: Any
    adapter: TypeAdapter[Any]

    @property
    def name(self) -> str:
        """``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.default is None and SecretStr in _parts(self.hint)

    def check(self, value: object, *, strict: bool) -> Any:
        """Return the value in its own type; ``strict`` takes no text for a number.  Raises ``ValueError``."""
        try:
            return self.adapter.validate_python(value, strict=strict)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = f"{toml(first['loc'][0])}: " if self._is_table and first["loc"] else ""
            if first["type"] == "value_error":
                raise ValueError(f"{where}{first['ctx']['error']}") from None
            reason = first["msg"].removeprefix("Input ").partition(", unable")[0]
            raise ValueError(reason if self.is_secret else f"{where}{reason}, not {toml(first['input'])}") from None

    def check_text(self, text: str) -> Any:
        """The same for text from outside the file; lists are written as JSON or with commas, tables as JSON."""
        value: object = text
        if self._is_table:
            try:
                value = json.loads(text)
            except ValueError:
                raise ValueError(f'should be a table such as {{"a": ["b"]}}, not {toml(text)}') from None
        if self._is_list:
            value = [item.strip() for item in text.split(",")] if text else []
            if text.lstrip().startswith("["):
                try:
                    value = json.loads(text)
                except ValueError:
                    raise ValueError(f"should be a list such as a,b or [\"a\", \"b\"], not {toml(text)}") from None
        return self.check(value, strict=False)

    @property
    def _is_list(self) -> bool:
        return typing.get_origin(bare(self.hint)) is tuple

    @property
    def _is_table(self) -> bool:
        return typing.get_origin(bare(self.hint)) is dict

    @property
    def allowed(self) -> str:
        """What the value may be, in words."""
        bounds = BOUNDS.get(self.name)
        if bounds is not None:
            return " to ".join(quantity(self.key, bound) for bound in bounds)
        hint = bare(self.hint)
        if typing.get_origin(hint) is Literal:
            return ", ".join(f"`{toml(choice)}`" for choice in typing.get_args(hint))
        if self.name in ("edge.origins",):
            return "list of host:port, rtmps://host[:port] or http[s]://host[:port][/path]"
        if self.name in ("rtmp.proxy_from", "http.trust_forwarded_from"):
            return "list of addresses or networks"
        if self.key == "hosts":
            return "list of host names or addresses"
        if self._is_list:
            return "list of text"
        if self._is_table:
            return "table of lists of text"
        if Address in _parts(self.hint):
            return "host:port"
        return "true, false" if hint is bool else "text"


@functools.cache
def options() -> Mapping[str, Option]:
    """Every option by ``section.key``, in the order of the sections."""
    found: dict[str, Option] = {}
    for section, cls in typing.get_type_hints(Config).items():
        hints = typing.get_type_hints(cls, include_extras=True)
        docs = _docs(cls)
        for each in dataclasses.fields(cls):
            computed = each.default_factory not in (dataclasses.MISSING, dict)
            default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
            hint = hints[each.name]
            name = f"{section}.{each.name}"
            low, high = BOUNDS.get(name, (None, None))
            limits = Field(ge=low, le=high, allow_inf_nan=False) if bare(hint) is float else Field(ge=low, le=high)
            adapter = TypeAdapter(Annotated[hint, limits] if low is not None else hint)
            found[name] = Option(section, each.name, default, computed, docs[each.name], hint, adapter)
    return types.MappingProxyType(found)


def _parts(hint: Any) -> set[Any]:
    """The types of a union, without ``Annotated``."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return {bare(each) for each in typing.get_args(hint)}
    return {bare(hint)}


def bare(hint: Any) -> Any:
    """The type under ``Annotated``."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _docs(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass, its base classes' included; Python itself does not keep it."""
    found: dict[str, str] = {}
    for base in reversed([each for each in cls.__mro__ if dataclasses.is_dataclass(each)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for before, after in zip(tree.body, tree.body[1:], strict=False):
            match before, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found
