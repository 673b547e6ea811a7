"""Settings and catalog: read, checked, explained.

`load_settings` and `load_catalog` return typed values or raise one `ConfigError` that says all
that is wrong. `check` looks at both together, `refuse` raises what it found, `explain` tells
where every setting comes from.
"""

from llm_backend.config.base import Origin
from llm_backend.config.catalog import Catalog
from llm_backend.config.checks import check
from llm_backend.config.explain import Explained, explain
from llm_backend.config.load import load_catalog, load_settings
from llm_backend.config.problems import Problem, refuse
from llm_backend.config.settings import Settings

__all__ = [
    "Catalog",
    "Explained",
    "Origin",
    "Problem",
    "Settings",
    "check",
    "explain",
    "load_catalog",
    "load_settings",
    "refuse",
]
