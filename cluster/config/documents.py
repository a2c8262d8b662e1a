"""What people read about the settings: the reference, and a file with every option."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from typing import NamedTuple

from cluster.config.changes import RESTART
from cluster.config.options import Option, options
from cluster.config.settings import Config
from cluster.config.text import quantity, toml


class _Computed(NamedTuple):
    """A default that each machine finds out for itself, and a value to write in its place."""

    default: str
    example: str


_COMPUTED = {"node.id": _Computed("the host name", '"..."'), "node.workers": _Computed("one per core", "4")}


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
        "",
        "A secret may come from a file: `*_file` names it. Under systemd it may be a credential, without any setting:",
        "`LoadCredential=pyrtmp.api.token:/etc/pyrtmp/api-token` in the unit is `api.token`.",
        "",
        "`pyrtmp reload` and SIGHUP have a running node read them again. What follows at once: everything but",
        f"{', '.join(f'`{name}`' for name in options() if name in RESTART)};",
        "`[stream]` and `[hls]` for streams that begin from then on, most of `[limits]` for connections that come.",
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
                if each.computed:
                    lines.append(f"# {each.key} = {_COMPUTED[each.name].example}")
                elif each.default is None:
                    lines.append(f'# {each.key} = "..."')
                else:
                    lines.append(f"{each.key} = {toml(each.default)}")
    return "\n".join(lines) + "\n"


def _summary(cls: type) -> str:
    """What a section is about: its docstring's first paragraph, without what concerns the code."""
    return re.split(r"\s+Raises |\n\n", inspect.cleandoc(cls.__doc__ or ""))[0]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 116, initial_indent="# ", subsequent_indent="# ")


def _default(option: Option) -> str:
    if option.computed:
        return _COMPUTED[option.name].default
    if option.default is None:
        return "none"
    text = f"`{toml(option.default)}`"
    size = quantity(option.key, option.default) if option.key.endswith("_bytes") else ""
    return f"{text} ({size})" if "iB" in size else text
