"""What vendors' devices take, by name: `limits: [amct]` in a recipe says all that such a list says.

Each vendor's folder may have `LIMITS`, a name and its limits; they are found by themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

import calibrant.dialects
from calibrant.recipe import Limit

__all__ = ["named_limits"]


@cache
def named_limits() -> Mapping[str, tuple[Limit, ...]]:
    """Return every list of limits that has a name."""
    vendors = sorted(m.name for m in pkgutil.iter_modules(calibrant.dialects.__path__) if m.ispkg)
    modules = [importlib.import_module(f"calibrant.dialects.{name}") for name in vendors]
    return {name: limits for m in modules for name, limits in getattr(m, "LIMITS", {}).items()}
