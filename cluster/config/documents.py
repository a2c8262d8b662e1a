"""What people read about the settings: the reference, and a file with every option."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing

from cluster.config.options import Option, options
from cluster.config.settings import Config
from cluster.config.text import quantity, toml


def reference() -> str:
    """The reference of all options, as Markdown."""
    lines = [
        "# Configuration reference",
        "",
        "Written by `make reference` from the settings themselves.",
        "",
        "A node reads, the stronger first: `--set section.key=value`, the environment variable `PYRTMP_SECTION__KEY`,",
        "the TOML file, the default. Lists in `--set` and in variables are written `a,b` or as JSON.",
        "`pyrtmp check FILE` names every mistake.",
    ]
    for section, cls in typing.get_type_hints(Config).items():
        lines += ["", f"## [{section}]", "", _summary(cls), ""]
        lines += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        for each in options().values():
            if each.section == section:
                doc = each.doc.replace("|", "\\|")
                lines.append(f"| `{each.key}` | {_default(each)} | {each.allowed} | {doc} |")
    return "\n".join(lines) + "\n"


def example() -> str:
    """A configuration file with every option at its default, as TOML."""
    lines = [
        "# One origin: it takes publishers by RTMP and serves viewers by RTMP, HTTP-FLV and HLS.",
        "#",
        "#     pyrtmp serve --config config/origin.toml",
        "#",
        "# Every option is here with its default (written by make reference); a file needs only what differs.",
    ]
    for section, cls in typing.get_type_hints(Config).items():
        lines += ["", "", *_comment(_summary(cls)), f"[{section}]"]
        for each in options().values():
            if each.section == section:
                lines += ["", *_comment(each.doc)]
                fixed = each.default is not None and not each.computed
                lines.append(f"{each.key} = {toml(each.default)}" if fixed else f'# {each.key} = "..."')
    return "\n".join(lines) + "\n"


def _summary(cls: type) -> str:
    """What a section is about: its docstring's first paragraph, without what concerns the code."""
    return re.split(r"\s+Raises |\n\n", inspect.cleandoc(cls.__doc__ or ""))[0]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 116, initial_indent="# ", subsequent_indent="# ")


def _default(option: Option) -> str:
    if option.computed:
        return "the host name"
    if option.default is None:
        return "none"
    text = f"`{toml(option.default)}`"
    size = quantity(option.key, option.default) if option.key.endswith("_bytes") else ""
    return f"{text} ({size})" if "iB" in size else text
