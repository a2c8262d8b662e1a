"""Configuration files of nginx's kind, which SRS has too: directives that end with ``;`` or have a block.

::

    listen 1935;                      # a comment
    application live {
        push "rtmp://a/live" name=b;
    }
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

MAX_BYTES: Final = 1024 * 1024
"""Longest file; real ones have some thousand."""
MAX_DEPTH: Final = 32
"""Deepest nesting of blocks."""
MAX_DIRECTIVES: Final = 10_000
MAX_WORD: Final = 4096
"""Longest word; nginx has the same."""

_TOKEN: Final = re.compile(
    r"""
    (?P<blank> \s+ | \#[^\n]* )
    | (?P<mark> [{};] )
    | (?P<quoted> (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' ) (?= [\s{};] | \Z ) )
    | (?P<bare> (?!["']) (?: \$\{[^\s{}]*\} | \\. | [^\s{};\\] )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
"""A quote within a word, and a ``#``, stand for themselves; ``${name}`` begins no block."""
_ESCAPED: Final = re.compile(r"""\\(["'\\trn])""")
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n"}


class BlocksError(ValueError):
    """The text is no such file."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive."""

    name: str
    arguments: tuple[str, ...]
    line: int
    """Where it begins, from 1."""
    block: tuple[Directive, ...] | None = None
    """What it holds; None where it ends with ``;``."""

    @property
    def value(self) -> str:
        """Its first argument, or ""."""
        return self.arguments[0] if self.arguments else ""

    def all(self, name: str) -> Iterator[Directive]:
        """The directives of that name in its block."""
        return (each for each in self.block or () if each.name == name)

    def first(self, name: str) -> Directive | None:
        """The first of them."""
        return next(self.all(name), None)


@dataclass(slots=True)
class _Open:
    """A block whose end has not come."""

    words: list[str]
    line: int
    directives: list[Directive] = field(default_factory=list)


def parse(text: str) -> tuple[Directive, ...]:
    """The directives of a file.  Raises ``BlocksError``."""
    if len(text.encode()) > MAX_BYTES:
        raise BlocksError(1, f"the file is longer than {MAX_BYTES} bytes")
    stack = [_Open([], 1)]
    words: list[str] = []
    began, number = 1, 0
    for word, quoted, line in _words(text):
        mark = "" if quoted else word
        if mark in ("{", ";") and not words:
            raise BlocksError(line, f'"{mark}" without a directive')
        number += mark in ("{", ";")
        if number > MAX_DIRECTIVES:
            raise BlocksError(line, f"there are more than {MAX_DIRECTIVES} directives")
        if mark == ";":
            stack[-1].directives.append(Directive(words[0], tuple(words[1:]), began))
            words = []
        elif mark == "{":
            if len(stack) > MAX_DEPTH:
                raise BlocksError(line, f"blocks are nested more than {MAX_DEPTH} deep")
            stack.append(_Open(words, began))
            words = []
        elif mark == "}":
            if words:
                raise BlocksError(began, f'"{shown(words[0])}" does not end with ";"')
            if len(stack) == 1:
                raise BlocksError(line, '"}" without a block')
            ended = stack.pop()
            name, *arguments = ended.words
            stack[-1].directives.append(Directive(name, tuple(arguments), ended.line, tuple(ended.directives)))
        else:
            began = began if words else line
            words.append(word)
    if words:
        raise BlocksError(began, f'"{shown(words[0])}" does not end with ";"')
    if len(stack) > 1:
        raise BlocksError(stack[-1].line, f'the block of "{shown(stack[-1].words[0])}" has no end')
    return tuple(stack[0].directives)


def _words(text: str) -> Iterator[tuple[str, bool, int]]:
    """Every word, whether it was quoted, and its line; ``{``, ``}`` and ``;`` are words of their own."""
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise BlocksError(line, "a quote has no end, or goes on without a blank")
        word, kind = found[0], found.lastgroup
        if len(word) > MAX_WORD and kind in ("quoted", "bare"):
            raise BlocksError(line, f"a word is longer than {MAX_WORD} characters")
        if kind == "quoted":
            yield _ESCAPED.sub(_unescape, word[1:-1]), True, line
        elif kind == "bare":
            yield _ESCAPED.sub(_unescape, word), False, line
        elif kind == "mark":
            yield word, False, line
        line += word.count("\n")
        at = found.end()


def _unescape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[1])


def shown(word: str) -> str:
    """As it can stand in a message."""
    return ascii(word[:64])[1:-1]
