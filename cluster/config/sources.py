"""Where values come from: the TOML file, the environment, ``--set``.  Each is read into a ``Layer``."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config.errors import Problem
from cluster.config.options import Option, options
from cluster.config.text import toml

ENVIRONMENT_PREFIX = "PYRTMP_"


@dataclass(slots=True)
class Layer:
    """What one source sets: checked values by option name, and where each was written."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def set(self, name: str, place: str, check: Callable[[Option], Any], *, spell: Callable[[str], str] = str) -> None:
        """Check and keep one value, or note what is wrong; ``spell`` writes a suggested name as the source does."""
        option = options().get(name)
        if option is None:
            guess = _near(name)
            self.problems.append(
                Problem(place, name, "no such key" + (f"; did you mean {spell(guess)}?" if guess else ""))
            )
            return
        self.places[name] = place
        try:
            self.values[name] = check(option)
        except ValueError as error:
            self.problems.append(Problem(place, name, str(error)))

    def nested(self) -> dict[str, dict[str, Any]]:
        """The values by section and key."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in self.values.items():
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        return sections


def _near(name: str) -> str:
    """The option that was probably meant, or ""."""
    names = list(options())
    section, _, key = name.partition(".")
    sections = difflib.get_close_matches(section, {each.section for each in options().values()}, 1)
    if sections:
        keys = [each.key for each in options().values() if each.section == sections[0]]
        if match := difflib.get_close_matches(key, keys, 1):
            return f"{sections[0]}.{match[0]}"
    elsewhere = [each for each in names if each.endswith(f".{key or section}")]
    return " or ".join(elsewhere) or next(iter(difflib.get_close_matches(name, names, 1)), "")


def read_file(path: Path) -> Layer:
    layer = Layer()
    try:
        text = path.read_bytes().decode("utf-8-sig")
        tables = tomllib.loads(text)
    except OSError as error:
        layer.problems.append(Problem(str(path), "", f"cannot be read: {error.strerror or error}"))
        return layer
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        layer.problems.append(Problem(f"{path}:{line}", "", "is not UTF-8 text"))
        return layer
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), column \d+\)", str(error))
        place = f"{path}:{at[1]}" if at else str(path)
        layer.problems.append(Problem(place, "", f"is not TOML: {error}"))
        return layer

    lines = toml_lines(text)
    sections = {each.section for each in options().values()}
    for section, table in tables.items():
        if section in sections and not isinstance(table, dict):
            place = f"{path}:{lines[section]}"
            layer.problems.append(Problem(place, section, f"should be a section, [{section}], not {toml(table)}"))
        elif isinstance(table, dict) and table:
            for key, value in table.items():
                name = f"{section}.{key}"
                layer.set(name, f"{path}:{lines[name]}", functools.partial(_check_strictly, value))
        elif section not in sections:
            layer.set(section, f"{path}:{lines[section]}", functools.partial(_check_strictly, table))
    return layer


def _check_strictly(value: object, option: Option) -> Any:
    return option.check(value, strict=True)


def toml_lines(text: str) -> dict[str, int]:
    """The line on which each table and key of a legal TOML text begins; tomllib does not tell.

    A statement is a header or a key with its value, and ends with the first line at which it is TOML by itself.
    """
    lines: dict[str, int] = {}
    prefix: tuple[str, ...] = ()
    statement, start = "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        start = start if statement else number
        statement += line
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        header = statement.lstrip().startswith("[")
        paths = list(_paths(parsed, () if header else prefix))
        for path in paths:
            lines.setdefault(".".join(path), start)
        prefix = paths[-1] if header else prefix
        statement = ""
    return lines


def _paths(table: Mapping[str, Any], prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every key in a table, those of inner tables after their own."""
    for key, value in table.items():
        path = (*prefix, key)
        yield path
        if isinstance(value, dict):
            yield from _paths(value, path)


# What Kubernetes and Docker links set for a service that happens to be called pyrtmp.
_FOREIGN_VARIABLE = re.compile(r"PYRTMP_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.replace(".", "__").upper()


def read_environment(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _FOREIGN_VARIABLE.fullmatch(variable):
            continue
        section, separator, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if separator:
            layer.set(f"{section}.{key}", "environment", functools.partial(_check_text, text), spell=_variable)
            continue
        meant = [each for each in options() if each.replace(".", "_") == section]
        hint = f"; did you mean {_variable(meant[0])}?" if meant else ""
        layer.problems.append(
            Problem("environment", variable, f"is not {ENVIRONMENT_PREFIX}SECTION__KEY (two underscores){hint}")
        )
    return layer


def _check_text(text: str, option: Option) -> Any:
    return option.check_text(text)


CREDENTIAL_PREFIX = "pyrtmp."


def read_credentials(environ: Mapping[str, str], known: Collection[str]) -> Layer:
    """Secrets that systemd hands over (``LoadCredential=pyrtmp.api.token:PATH``), each in a file called ``pyrtmp.`` and
    the option; those of ``known`` options stay as they are."""
    layer = Layer()
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        return layer
    for option in options().values():
        path = Path(directory) / f"{CREDENTIAL_PREFIX}{option.name}"
        if option.is_secret and not {option.name, f"{option.name}_file"}.intersection(known) and path.exists():
            layer.values[f"{option.name}_file"] = str(path)
            layer.places[f"{option.name}_file"] = "credentials"
    return layer


def read_overrides(overrides: Sequence[str]) -> Layer:
    layer = Layer()
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[^.]+\.[^.]+", name):
            layer.problems.append(Problem("--set", name, f"should be section.key=value, not {toml(override)}"))
            continue
        layer.set(name, "--set", functools.partial(_check_text, text.strip()))
    return layer
