"""The list of all commands, from the command line itself (``config/COMMANDS.md``)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from cluster.cli import make_parser

_UNTOLD = (argparse._HelpAction, argparse._SubParsersAction)


def reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    parser = make_parser()
    lines = [
        "# Commands",
        "",
        "Written by `make reference` from the command line itself; `pyrtmp COMMAND --help` says the same.",
        "",
        parser.epilog or "",
    ]
    for words, command in commands(parser):
        lines += ["", f"## {' '.join(words)}", "", command.description or ""]
        told = [_row(each) for each in command._actions if not isinstance(each, _UNTOLD)]
        if told:
            lines += ["", "| | |", "|---|---|", *told]
    return "\n".join(lines) + "\n"


def commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ("pyrtmp",)
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command below ``parser``, with the words that call it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield (*words, name), command
                yield from commands(command, (*words, name))


def _row(action: argparse.Action) -> str:
    value = action.metavar or ("/".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        written = str(value)
    elif action.nargs == 0:
        written = action.option_strings[0]
    else:
        written = f"{action.option_strings[0]} {value}"
    return f"| `{written}` | {action.help or ''} |"
