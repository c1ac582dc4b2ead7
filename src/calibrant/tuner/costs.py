"""What a layer costs in each precision.

    macs    multiplications of one sample times the bits of the precision; a layer without any counts the values it gives
    size    bytes of its weight
    latency milliseconds on this machine (`tuner.latency`)
    FILE    the user's own table

With a cost of which many layers have none (size), multiplications decide between assignments that are equal in it.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibrant.analysis.probe import Probe
from calibrant.data.digests import text_digest
from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.plan import Plan
from calibrant.runtime.downstream import Whole
from calibrant.runtime.runtime import Runtime
from calibrant.tuner.journal import Journal
from calibrant.tuner.latency import Latencies, measured_latencies
from calibrant.tuner.precisions import COMPENSATED, NARROW
from calibrant.tuning.menu import Floats, Menu

__all__ = ["BITS", "COSTS", "average_bits_of", "bytes_of", "limited", "menu_of"]

#: Bits of a precision, the least first: int4 are those of weights, and an 8-bit value with a second one beside it takes 16.
BITS = {"int4": 4, "int8": 8, COMPENSATED: 16, "int16": 16, "float16": 16, "float32": 32}

COSTS = ("macs", "size", "latency")


def menu_of(
    cost: str | Path,
    layers: Sequence[str],
    precisions: Sequence[str],
    model: ir.Model,
    plan: Plan,
    probe: Probe,
    runtime: Runtime,
    deployed: Callable[[str], ir.Model],
    journal: Journal,
    context: str,
) -> Menu:
    """Return what layers may be, and what each precision costs.

    Args:
        cost: `macs`, `size`, `latency`, or a CSV file: a column `layer` (a name or a pattern), and one for each precision.
        layers: Names, in graph order.
        precisions: Precisions that are allowed.
        model: The float model of the plan.
        plan: Where quantizers stand.
        probe: Samples; the first shows what layers take.
        runtime: Where models run.
        deployed: Returns the model to deploy with all layers in a precision.
        journal: Where measured times are kept.
        context: Digest of the model, the recipe and the data.

    Raises:
        ConfigValueError: An unknown cost model, or a table that lacks a layer or a precision.
    """
    bits = np.array([BITS[p] for p in precisions], dtype=float)
    work = _work(model, layers, probe, runtime)[:, np.newaxis] * bits
    feeds = _feeds(layers, plan)
    narrow = max(1, sum(p in NARROW for p in precisions))
    if cost == "macs":
        return Menu(tuple(layers), tuple(precisions), work, feeds=feeds, narrow=narrow)
    if cost == "size":
        sizes = _weights(model, plan)
        table = np.array([sizes.get(n, 0) for n in layers])[:, np.newaxis] * bits / 8
        return Menu(tuple(layers), tuple(precisions), table, work, feeds, narrow=narrow)
    if cost == "latency":
        found = _latencies(layers, precisions, model, probe, runtime, deployed, journal, context)
        return Menu(tuple(layers), tuple(precisions), found.cost, work, feeds, found.borders)
    if not str(cost).lower().endswith(".csv"):
        raise ConfigValueError(
            f"Unknown cost '{cost}'. Known: {', '.join(COSTS)}, or a file that ends in .csv."
            + did_you_mean(str(cost), COSTS)
        )
    table = _table(Path(cost), layers, precisions)
    return Menu(tuple(layers), tuple(precisions), table, work, feeds, narrow=narrow)


def limited(menu: Menu, limits: Mapping[str, str | Sequence[str]]) -> Menu:
    """Return the menu without precisions that layers may not have.

    Args:
        menu: What layers may be.
        limits: Pattern of names -> precisions; all patterns that match hold.

    Raises:
        ConfigValueError: A pattern that matches no layer, a precision that is not on the menu, or a layer that none is left for.
    """
    cost = menu.cost.copy()
    for pattern, named in limits.items():
        kept = [p.strip() for p in named.split(",")] if isinstance(named, str) else list(named)
        for name in kept:
            if name not in menu.precisions:
                raise ConfigValueError(
                    f"The limit of '{pattern}' names {name or 'no precision'}; allowed are {', '.join(menu.precisions)}."
                    + did_you_mean(name, menu.precisions)
                )
        rows = [i for i, n in enumerate(menu.layers) if pattern == n or fnmatchcase(n, pattern)]
        if not rows:
            raise ConfigValueError(
                f"A limit is for '{pattern}', which is the name of none of the {len(menu.layers)} layers."
                + did_you_mean(pattern, menu.layers)
            )
        gone = [i for i, p in enumerate(menu.precisions) if p not in kept]
        cost[np.ix_(rows, gone)] = math.inf
    for layer, row in zip(menu.layers, cost, strict=True):
        if not np.isfinite(row).any():
            raise ConfigValueError(f"The limits leave no precision for layer '{layer}'.")
    return replace(menu, cost=cost)


def bytes_of(menu: Menu, average_bits: float) -> float:
    """Return what all weights take with so many bits on average [bytes].

    Args:
        menu: Of costs in `size`.
        average_bits: Bits of a weight, the mean over all weights of the menu's layers.

    Raises:
        ConfigValueError: No layer has a weight.

    Example:
        >>> bytes_of(Menu(("a", "b"), ("int4", "int8"), np.array([[2.0, 4.0], [8.0, 16.0]])), 6)
        15.0
    """
    count = _weights_in(menu)
    if not count:
        raise ConfigValueError("average_bits is of weights, and no layer that is free has one.")
    return count * average_bits / 8


def average_bits_of(menu: Menu, cost: float) -> float | None:
    """Return the bits of a weight on average where all weights take so many bytes; None where there are none."""
    count = _weights_in(menu)
    return 8 * cost / count if count else None


def _weights_in(menu: Menu) -> float:
    """Return the number of values in all weights."""
    bits = np.array([BITS[p] for p in menu.precisions], dtype=float)
    finite = np.where(np.isfinite(menu.cost), menu.cost, 0.0)
    return float((8 * finite / bits).max(axis=1).sum())


def _latencies(
    layers: Sequence[str],
    precisions: Sequence[str],
    model: ir.Model,
    probe: Probe,
    runtime: Runtime,
    deployed: Callable[[str], ir.Model],
    journal: Journal,
    context: str,
) -> Latencies:
    """Return measured times; those that a run of before measured are taken again."""
    machine = platform.machine(), platform.processor(), os.cpu_count()
    said = repr((layers, precisions, runtime, machine))
    key = text_digest(context, "latency", said)
    known = journal.get(key)
    if known is None:
        start = time.perf_counter()
        models = {p: model if p == "float32" else deployed(p) for p in precisions}
        found = measured_latencies(models, model, layers, precisions, probe.first, runtime)
        answer = {"cost": found.cost.tolist(), "borders": found.borders, "whole": found.whole}
        journal.put(key, "latency", ", ".join(precisions), answer, time.perf_counter() - start)
        return found
    borders = tuple((int(a), int(b), float(c)) for a, b, c in known["borders"])
    return Latencies(np.array(known["cost"]), borders, known["whole"])


def _work(model: ir.Model, layers: Sequence[str], probe: Probe, runtime: Runtime) -> Floats:
    """Return the multiplications of layers for one sample, or the values that one without any gives."""
    whole = Whole.of(model, probe.scored, [probe.first], runtime=runtime)
    rows = 1 if probe.free else max(1, probe.small[0].size)
    nodes = {n.name: n for n in model.graph}
    found = []
    for layer in layers:
        macs = whole.macs_of(layer)
        given = [whole.values[0].get(v.name or "") for v in nodes[layer].outputs]
        values = sum(np.asarray(x).size for x in given if x is not None)
        found.append((macs or values) / rows)
    return np.array(found, dtype=float)


def _feeds(layers: Sequence[str], plan: Plan) -> tuple[tuple[int, int], ...]:
    """Return pairs (feeder, reader) of layers: the reader reads a tensor that the feeder's kernel gives as integers."""
    place = {n: i for i, n in enumerate(layers)}
    producers: dict[str, set[str]] = {}  # node -> nodes that give the integers it reads
    for d in plan.activations:
        if d.producer is not None:
            for reader, _ in d.users:
                producers.setdefault(reader, set()).add(d.producer)
    found = set()
    for reader in layers:
        stack, seen = list(producers.get(reader, ())), set[str]()
        while stack:
            node = stack.pop()
            if node in place:
                found.add((place[node], place[reader]))
            elif node not in seen:  # it moves or joins integers of others
                seen.add(node)
                stack.extend(producers.get(node, ()))
    return tuple(sorted(found))


def _weights(model: ir.Model, plan: Plan) -> Mapping[str, int]:
    """Return the number of values in the weight of each layer."""
    found = {}
    for w in plan.weights:
        const = model.graph.initializers[w.weight].const_value
        assert const is not None
        found[w.layer] = int(const.size)
    return found


def _table(path: Path, layers: Sequence[str], precisions: Sequence[str]) -> Floats:
    """Read a table of costs; the first row whose name or pattern fits a layer says its costs."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise ConfigValueError(f"The table of costs '{path}' cannot be read: {e}.") from e
    columns = list(rows[0]) if rows else []
    for name in ("layer", *precisions):
        if name not in columns:
            raise ConfigValueError(
                f"The table of costs '{path}' has no column '{name}'; it has {', '.join(map(str, columns)) or 'none'}."
            )
    found = []
    for layer in layers:
        index = next((i for i, r in enumerate(rows) if _fits(r["layer"], layer)), None)
        if index is None:
            raise ConfigValueError(
                f"The table of costs '{path}' has no row for layer '{layer}'; a pattern such as * is for all the others."
            )
        place = f"{path}: row {index + 2}"
        found.append([_cost(rows[index][p], place, p) for p in precisions])
    return np.array(found, dtype=float)


def _fits(pattern: str | None, layer: str) -> bool:
    return pattern is not None and (pattern == layer or fnmatchcase(layer, pattern))


def _cost(text: str | None, place: str, precision: str) -> float:
    """Return one cost; an empty field says that the layer cannot have the precision."""
    if text is None or not text.strip():
        return math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0 or math.isinf(value):
        raise ConfigValueError(
            f"{place}: {precision} is '{text}'; a cost is a number of 0 or more, or empty."
        )
    return value
