"""The settings of one node: where they come from, what is legal, and everything that is wrong with them at once.

::

    --set section.key=value  >  PYRTMP_SECTION__KEY=value  >  key = value under [section]  >  credential  >  default

Each value is checked by itself, where it was written, so that a mistake is named with its place even when a stronger
source hides it.  pydantic-settings then lays the sources over each other, and what only the whole can show (a window
shorter than a fragment) is checked last.

``settings`` declares what there is, ``options`` looks at it, ``sources`` reads what people wrote, ``loading`` puts that
together, ``documents`` describes it, ``changes`` says what of it can change while a node runs.
"""

from cluster.config.changes import RESTART, Changes, compare, listens_with_tls
from cluster.config.documents import example, reference
from cluster.config.errors import ConfigError, Problem
from cluster.config.loading import load
from cluster.config.options import Option, options
from cluster.config.settings import (
    BOUNDS,
    AccessSettings,
    Address,
    ApiSettings,
    Config,
    HttpSettings,
    HttpsSettings,
    LimitSettings,
    LogSettings,
    NodeSettings,
    Origin,
    RtmpSettings,
    RtmpsSettings,
    TlsSettings,
)

__all__ = [
    "BOUNDS",
    "RESTART",
    "AccessSettings",
    "Address",
    "ApiSettings",
    "Changes",
    "Config",
    "ConfigError",
    "HttpSettings",
    "HttpsSettings",
    "LimitSettings",
    "LogSettings",
    "NodeSettings",
    "Option",
    "Origin",
    "Problem",
    "RtmpSettings",
    "RtmpsSettings",
    "TlsSettings",
    "compare",
    "example",
    "listens_with_tls",
    "load",
    "options",
    "reference",
]
