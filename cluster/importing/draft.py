"""The configuration that an import makes, while it is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cluster.config import ConfigError, load, options
from cluster.importing.blocks import Directive, shown

Locate: TypeAlias = "Callable[[str], str | None]"
"""The absolute path of a file that a configuration names, or None where it cannot be read."""

Carry: TypeAlias = "Callable[[Draft, Directive], object] | str"
"""What becomes of a directive: a function that carries it, or why it is not carried and what to do."""

SAME: Final = ""
"""In place of that: it is so here anyway."""


@dataclass(frozen=True, slots=True)
class Note:
    """A directive that was not carried, or not wholly."""

    line: int
    name: str
    advice: str
    """Both are printable, whatever the file holds."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.name}: {self.advice}"


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import."""

    toml: str
    """A configuration file; the notes are in it as comments."""
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any
    directive: Directive
    why: str
    """The comment beside it."""


class Draft:
    """Settings so far, each with the directive that it comes from."""

    def __init__(self, kind: str, locate: Locate) -> None:
        self.locate = locate
        self._kind = kind
        self._values: dict[str, _Value] = {}
        self._notes: list[Note] = []

    def get(self, name: str, default: Any = None) -> Any:
        """A setting as it is so far."""
        found = self._values.get(name)
        return default if found is None else found.value

    def set(self, name: str, value: Any, directive: Directive, *, why: str = "") -> bool:
        """Set ``section.key``, unless the value is not legal or another one came first; then there is a note.

        ``why`` is for what no directive says.
        """
        first = self._values.get(name)
        if first is not None and first.value != value:
            self.leave(directive, f"a node has one {name}; that of line {first.directive.line} counts")
            return False
        if not self.fits(name, value, directive):
            return False
        self._values[name] = _Value(value, directive, why or f"line {directive.line}")
        return True

    def number(self, name: str, text: str, directive: Directive, *, divisor: int = 1) -> None:
        """The same for a number as text; ``divisor`` is 1000 where it is in milliseconds and the setting is not."""
        try:
            value = float(text) / divisor
        except ValueError:
            self.leave(directive, f"does not become {name}: it is no number")
            return
        self.set(name, int(value) if value.is_integer() else value, directive)

    def fits(self, name: str, value: Any, directive: Directive) -> bool:
        """Whether the value is legal; if not, there is a note."""
        try:
            options()[name].check(value, strict=True)
        except ValueError as error:
            self.leave(directive, f"does not become {name}: {error}")
            return False
        return True

    def extend(self, name: str, items: list[str], directive: Directive) -> bool:
        """Add to a list, if all of it is legal."""
        if not self.fits(name, items, directive):
            return False
        self._values.setdefault(name, _Value([], directive, f"line {directive.line}")).value.extend(items)
        return True

    def insert(self, name: str, key: str, value: Any, directive: Directive) -> bool:
        """Add to a table, if it is legal."""
        if not self.fits(name, {key: value}, directive):
            return False
        self._values.setdefault(name, _Value({}, directive, f"line {directive.line}")).value[key] = value
        return True

    def rule(self, text: str, directive: Directive) -> None:
        """Add to ``access.rules``.  What cannot be said as a rule is refused, rather than open."""
        if not self.extend("access.rules", [text], directive):
            self.refuse_others(directive)

    def refuse_others(self, directive: Directive) -> None:
        """Nobody may do what no rule names."""
        self._values["access.default"] = _Value("deny", directive, "what no rule names is refused, or not carried")

    def leave(self, directive: Directive, advice: str) -> None:
        """Note that it is not carried, and what to do."""
        name = directive.name if directive.block is None else f"{directive.name} {directive.value}".strip()
        self._notes.append(Note(directive.line, shown(name), _printable(advice)))

    def drop(self, name: str, advice: str) -> None:
        """Forget a setting, with a note."""
        self.leave(self._values.pop(name).directive, advice)

    def walk(self, directives: tuple[Directive, ...], table: Mapping[str, Carry]) -> None:
        """Carry each as the table says."""
        for each in directives:
            carry = table.get(each.name)
            if carry is None:
                self.leave(each, "is not known to this import")
            elif not isinstance(carry, str):
                carry(self, each)
            elif carry != SAME:
                self.leave(each, carry)

    def finish(self) -> Imported:
        """As a file.  What does not go together with the rest is left out, and noted."""
        while True:
            try:
                load(None, [f"{name}={_text(each.value)}" for name, each in self._values.items()], {})
                break
            except ConfigError as error:
                self._leave_out({problem.key: problem.reason for problem in error.problems})
        notes = tuple(sorted(self._notes, key=lambda note: note.line))
        return Imported("\n".join(self._lines(notes)) + "\n", notes)

    def _leave_out(self, reasons: Mapping[str, str]) -> None:
        guilty = [name for name in self._values if name in reasons] or [
            name for name in self._values if name.partition(".")[0] in reasons
        ]
        if not guilty:
            raise AssertionError(f"nothing to leave out for {reasons}")
        for name in guilty:
            directive = self._values[name].directive
            self.drop(name, f"does not become {name}: {reasons.get(name, 'it does not go with the rest')}")
            if name.startswith(("access.", "callbacks.")):
                self.refuse_others(directive)

    def _lines(self, notes: tuple[Note, ...]) -> list[str]:
        lines = [f"# Made by pyrtmp import ({self._kind}). What a file leaves out has its default."]
        if notes:
            lines += ["#", "# Not carried, or not wholly; the lines are those of the other file:"]
            lines += [f"#   {note}" for note in notes]
        section = ""
        for name in options():
            found = self._values.get(name)
            if found is not None:
                if name.partition(".")[0] != section:
                    section = name.partition(".")[0]
                    lines += ["", f"[{section}]"]
                lines.append(f"{name.partition('.')[2]} = {_toml(found.value)}  # {found.why}")
        return lines


def as_number(name: str, divisor: int = 1) -> Carry:
    """For a directive whose value becomes the setting ``name``; see ``Draft.number``."""
    return lambda draft, directive: draft.number(name, directive.value, directive, divisor=divisor)


def unless(value: str, advice: str) -> Carry:
    """For a directive that is so here anyway when it has that value."""

    def carry(draft: Draft, directive: Directive) -> None:
        if directive.value != value:
            draft.leave(directive, advice)

    return carry


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _toml(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's, but for one character; tables are not."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list) and len(value) > 1:
        return "[\n" + "".join(f"    {_toml(each)},\n" for each in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
