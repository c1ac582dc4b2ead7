"""Tables of configurations: what is accepted and what it resolves to, and what is refused with which error."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import pytest

from calibrant import load_recipe
from calibrant.errors import ConfigError
from calibrant.recipe import Settings
from tests.dialects.conformance._zoo import explained

__all__ = ["IFMR", "accept", "refuse", "resolved"]

IFMR = {
    "max_percentile": 0.999999,
    "min_percentile": 0.999999,
    "search_range": (0.7, 1.3),
    "search_step": 0.01,
}

_FIELDS = {f.name for f in fields(Settings)}


def resolved(source: str | dict[str, Any], layer: str, index: int | None = None) -> dict[str, Any]:
    """Return what holds for a layer: its settings, algorithms by name, and their options beside them."""
    found = {d.node: d for d in explained(load_recipe(_text(source))).layers}[layer]
    flat: dict[str, Any] = dict(found.settings.items())
    for kind in ("activation", "weight"):
        choice = getattr(found.settings, kind)
        flat[kind] = choice.name
        flat |= dict(choice.options)
    return flat


def accept(source: str | dict[str, Any], layers: dict[str, dict[str, Any]]) -> None:
    """Check what some layers resolve to; a setting that is expected to be None is not set."""
    for layer, wanted in layers.items():
        found = resolved(source, layer)
        assert {k: found.get(k) for k in wanted} == wanted, layer


def refuse(source: str | dict[str, Any], error: type[ConfigError], *says: str) -> None:
    """Check that a configuration is refused, when it is read or for the model, and what is said."""
    with pytest.raises(error) as raised:
        explained(load_recipe(_text(source)))
    assert type(raised.value) is error
    message = str(raised.value)
    for part in says:
        assert re.search(rf"(?<!\w){re.escape(part)}", message), message


def _text(source: str | dict[str, Any]) -> str:
    return source if isinstance(source, str) else json.dumps(source, indent=4)
