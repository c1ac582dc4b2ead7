"""What `calibrant tune` is asked for, read from its options: a score, a requirement, budgets, and limits of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from calibrant.data.imports import is_function_name
from calibrant.errors import ConfigValueError
from calibrant.tuner import Command

__all__ = ["bits_of", "budget_of", "evaluation_of", "limits_of", "required_of"]


def evaluation_of(call: Mapping[str, Any]) -> Any:
    """Return how models are scored."""
    evaluation, metric, command = call["evaluation"], call["metric"], call["command"]
    if command is not None:
        if evaluation is not None or metric is not None:
            raise ConfigValueError(
                "--eval-command scores models by itself; --eval and --metric are not read beside it."
            )
        return Command(command)
    if evaluation is None and metric is not None and is_function_name(metric):
        return metric
    return evaluation if evaluation is not None else call["data"], metric or "cosine_similarity"


def limits_of(texts: Sequence[str]) -> dict[str, str]:
    """Return precisions by pattern of layer names."""
    found = {}
    for text in texts:
        pattern, equals, names = text.rpartition("=")
        if not equals or not pattern:
            raise ConfigValueError(
                f"--limit is '{text}'; it is layers=precisions, such as 'head*=int16,float32'."
            )
        found[pattern] = names
    return found


def budget_of(
    cost: str | None, size: str | None, latency: float | None
) -> tuple[str, float | None]:
    """Return what costs are counted in, and what the model may cost."""
    given = [(u, v) for u, v in (("size", size), ("latency", latency)) if v is not None]
    if not given:
        return cost or "macs", None
    unit = given[0][0]
    if len(given) > 1 or cost not in (None, unit):
        raise ConfigValueError(
            "One thing is made small at a time: --max-size goes with --cost size, --max-latency with --cost latency."
        )
    if unit == "latency":
        return unit, latency
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kKmM]?)", str(size))
    if match is None:
        raise ConfigValueError(
            f"--max-size is '{size}'; it is a number of bytes: 250000, 250K or 1.5M."
        )
    return unit, float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()]


def bits_of(average: float | None, ratio: float | None, *, limited: bool) -> float | None:
    """Return the bits of a weight on average that are asked for; None for no such limit."""
    if average is None and ratio is None:
        return None
    if limited or (average is not None and ratio is not None):
        raise ConfigValueError(
            "One budget is given at a time: --max-size, --max-latency, --average-bits or --compression."
        )
    if ratio is not None and not ratio > 0:
        raise ConfigValueError(f"--compression is {ratio}; it is above 0.")
    return average if average is not None else 32 / ratio if ratio is not None else None


def required_of(least: Sequence[str], drops: Sequence[str], *, needed: bool) -> Mapping[str, Any]:
    """Return what is required, of one score or of several by name; nothing where nothing is needed."""
    plain: dict[str, str] = {}
    named: dict[str, dict[str, str]] = {}
    for key, texts in (("min", least), ("max_drop", drops)):
        for text in texts:
            name, equals, value = text.rpartition("=")
            place = named.setdefault(name, {}) if equals else plain
            if key in place:
                raise ConfigValueError(
                    f"--{key.replace('_', '-')} is given twice{f' of {name}' if equals else ''}."
                )
            place[key] = value
    if plain and named:
        raise ConfigValueError(
            "Some requirements name their score and some do not; of several scores all are named."
        )
    if needed and not plain and not named:
        raise ConfigValueError(
            "Nothing is required: give --min, --max-drop, or both; or a budget (--max-size, --max-latency, --average-bits)."
        )
    return plain or named
