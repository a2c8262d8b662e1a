"""From sources to a ``Config``, or to everything that is wrong with them."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from cluster.config.errors import ConfigError, Problem
from cluster.config.files import FILES, unusable
from cluster.config.options import Option, options
from cluster.config.settings import CALLBACK_EVENTS, Config
from cluster.config.sources import Layer, read_credentials, read_environment, read_file, read_overrides


def load(path: Path | None, overrides: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Read, check and merge all sources.

    ``overrides`` are ``section.key=value``.  Raises ``ConfigError`` with every mistake found in any of them.
    """
    file = read_file(path) if path is not None else Layer()
    layers = [read_overrides(overrides), read_environment(environ), file]
    layers.append(read_credentials(environ, {name for layer in layers for name in layer.places}))
    problems = [problem for layer in reversed(layers) for problem in layer.problems]

    # The values that count, and where they come from.
    values = {name: option.default for name, option in options().items()}
    places: dict[str, str] = {}
    for layer in reversed(layers):
        values |= layer.values
        places |= layer.places

    # A key that is broken says nothing about the others; an unreadable file (no key) might have said anything.
    broken = {problem.key for problem in problems}
    for names, reason in _contradictions(values):
        if not broken.intersection((*names, "")):
            blamed = next(name for name in names if name in places)
            problems.append(Problem(places[blamed], blamed, reason))

    resolved = {}
    for name in (*FILES, "record.directory"):
        if values[name] is not None:
            directory = path.parent if path is not None and places[name] == file.places.get(name) else Path()
            resolved[name] = values[name] = str(directory / values[name])
    for name, reason in unusable(values):
        if not broken.intersection((name, "")):
            problems.append(Problem(places[name], name, reason))

    secrets: dict[str, Any] = {}
    for name, option in options().items():
        if option.is_secret and values[name] is None and values[f"{name}_file"] is not None:
            place = places[f"{name}_file"]
            directory = path.parent if path is not None and place == file.places.get(f"{name}_file") else Path()
            try:
                secrets[name] = _read_secret(option, directory / values[f"{name}_file"])
            except ValueError as error:
                problems.append(Problem(place, f"{name}_file", str(error)))
    if not problems:
        try:
            return _merge([Layer(secrets | resolved), *layers])
        except ValidationError as error:  # a section's own rule, in its __post_init__
            for each in error.errors(include_url=False):
                section = str(each["loc"][0])
                place = next((place for name, place in places.items() if name.startswith(f"{section}.")), "default")
                problems.append(Problem(place, section, each["msg"].removeprefix("Value error, ")))
    raise ConfigError(problems)


def _merge(layers: Sequence[Layer]) -> Config:
    """Lay the sources over each other, the strongest first, and the defaults under them."""

    class Layered(BaseSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, layer.nested()) for layer in layers)

    sections = typing.get_type_hints(Config)
    fields: dict[str, Any] = {section: (cls, Field(default_factory=cls)) for section, cls in sections.items()}
    merged = create_model("Merged", __base__=Layered, **fields)()
    return Config(**{section: getattr(merged, section) for section in sections})


# The first may be as large as the second, not larger.
_ORDERED = (
    ("egress.min_delay_ms", "egress.max_delay_ms"),
    ("limits.max_command_bytes", "limits.max_message_bytes"),
    ("stream.segment_bytes", "stream.log_bytes"),
    ("hls.fragment", "hls.max_fragment"),
    ("hls.fragment", "hls.window"),
)


def _contradictions(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong only together: the keys that take part (one of them is set), and why."""
    for smaller, larger in _ORDERED:
        if values[smaller] > values[larger]:
            yield (smaller, larger), f"{smaller} ({values[smaller]}) is more than {larger} ({values[larger]})"
    listeners = ("rtmp.listen", "http.listen", "api.listen", "rtmps.listen", "https.listen")
    for one, other in itertools.combinations([name for name in listeners if values[name] is not None], 2):
        if values[one].clashes(values[other]):
            yield (one, other), f"{one} ({values[one]}) and {other} ({values[other]}) cannot be open together"
    registry = values["registry.url"] is not None or values["registry.url_file"] is not None
    if values["node.role"] == "edge" and not values["edge.origins"] and not registry:
        yield (
            ("node.role", "edge.origins", "registry.url", "registry.url_file"),
            "an edge needs edge.origins, the nodes that have the streams, or registry.url, where it finds them",
        )
    if registry and values["node.advertise"] is None and values["rtmp.listen"].host in ("0.0.0.0", "::"):
        yield (
            ("registry.url", "registry.url_file", "node.advertise"),
            f"other nodes have to know where this one is, and rtmp.listen ({values['rtmp.listen']}) does not say which "
            "address: set node.advertise",
        )
    for secret in (each.name for each in options().values() if each.is_secret):
        if values[secret] is not None and values[f"{secret}_file"] is not None:
            yield (f"{secret}_file", secret), f"{secret} is set as well; only one of them may be"
    if values["record.streams"] and values["record.directory"] is None:
        yield ("record.streams", "record.directory"), "record.streams needs record.directory"
    yield from _tls_contradictions(values)
    yield from _loose_ends(values)
    yield from _callbacks(values)
    if not values["api.listen"].is_loopback and values["api.token"] is None and values["api.token_file"] is None:
        yield (
            ("api.listen", "api.token", "api.token_file"),
            f"other machines can reach {values['api.listen']}; that needs api.token or api.token_file",
        )


def _tls_contradictions(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    for one, other in (
        ("tls.certificate", "tls.key"), ("tls.key", "tls.certificate"), ("tls.client_ca", "tls.certificate"),
        ("tls.client_certificate", "tls.client_key"), ("tls.client_key", "tls.client_certificate"),
        ("rtmps.listen", "tls.certificate"), ("https.listen", "tls.certificate"), ("api.tls", "tls.certificate"),
        ("http.redirect_to_https", "https.listen"),
    ):  # fmt: skip
        if values[one] not in (None, False) and values[other] is None:
            yield (one, other), f"{one} needs {other}"


# What a check decides by.
_MATERIAL = {
    "key": ("access.keys",),
    "signed": ("access.signed_secret", "access.signed_secret_file"),
    "token": ("access.token_secret", "access.token_secret_file", "access.token_key", "access.token_key_file",
              "access.token_jwks"),
    "callback": ("callbacks.url", "callbacks.on_publish", "callbacks.on_play"),
}  # fmt: skip


def _loose_ends(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """A rule that nobody can pass by what it asks for; a key or secret that no rule asks for, and so protects nothing.
    """
    asked = {check for text in values["access.rules"] for check in text.split()[2:]}
    for check, names in _MATERIAL.items():
        present = [name for name in names if values[name]]
        if check in asked and not present:
            yield ("access.rules", *names), f'a rule asks for "{check}", but there is no {names[0]}'
        # pyrtmp secret url needs no rule to sign for other nodes; callbacks need none to be asked, nor to be told.
        if present and check not in asked and check not in ("signed", "callback"):
            yield (*present, "access.rules"), f'no rule of access.rules asks for "{check}", so this protects nothing'


# What each dialect has no words for.
_SPEECHLESS = {
    "srs": ("done",),
    "nginx-rtmp": ("hls",),
    "mediamtx": ("connect", "unpublish", "stop", "done", "hls", "dvr"),
}


def _callbacks(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    dialect = values["callbacks.dialect"]
    for event in _SPEECHLESS[dialect]:
        if values[f"callbacks.on_{event}"]:
            yield (f"callbacks.on_{event}", "callbacks.dialect"), f'"{dialect}" has no on_{event}'
    asked = {check for text in values["access.rules"] for check in text.split()[2:]}
    for name in ("callbacks.on_publish", "callbacks.on_play"):
        if values[name] and values["access.rules"] and "callback" not in asked:
            yield (name, "access.rules"), 'no rule of access.rules asks for "callback", so this protects nothing'
    used = [f"callbacks.{key}" for key in ("url", *(f"on_{each}" for each in CALLBACK_EVENTS)) if
            values[f"callbacks.{key}"]]  # fmt: skip
    deadline, patience = values["callbacks.deadline_seconds"], values["timeouts.request"]
    if used and deadline >= patience:
        yield (
            ("callbacks.deadline_seconds", "timeouts.request", *used),
            f"a client that waits for its answer is closed after timeouts.request ({patience:g} s), which "
            f"callbacks.deadline_seconds ({deadline:g}) has to be shorter than",
        )


def _read_secret(option: Option, path: Path) -> SecretStr:
    """The secret that a file holds; a newline at its end does not belong to it.  Raises ``ValueError``."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    try:
        secret: SecretStr = option.check(text.strip(), strict=True)
    except ValueError as error:
        raise ValueError(f"the content of {path} {error}") from None
    return secret
