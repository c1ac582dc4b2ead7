"""What changed: settings of the whole model, of layers, and of quantizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calibrant.report.page.numbers import NOTHING, as_float, figure
from calibrant.report.page.run import Run
from calibrant.report.page.section import Section, Table
from calibrant.report.page.sections.pair.outcome import facts
from calibrant.report.page.sections.plan import ends, rule_text

__all__ = ["section"]

#: Ranges that differ by less than this share of their width are one range.
SAME = 1e-3


def section(a: Run, b: Run) -> Section | None:
    """Return what differs between two quantizations."""
    if a.summary is None or b.summary is None:
        return None
    whole = list(_differing(facts(a.summary), facts(b.summary)))
    layers = list(_layers(a, b))
    quantizers = list(_quantizers(a, b))
    heads = (a.name, b.name)
    return Section(
        "changes",
        "What changed",
        "pair_changes.html",
        {
            "same": not whole and not layers and not quantizers,
            "whole": Table(("Setting", *heads), whole, "For the whole model"),
            "layers": Table(("Layer", "Setting", *heads), layers, "Layers", layers=True),
            "quantizers": Table(("Tensor", "What", *heads), quantizers, "Quantizers"),
        },
    )


def _differing(x: Mapping[str, str], y: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys((*x, *y)):
        before, after = x.get(key, NOTHING), y.get(key, NOTHING)
        if before != after:
            yield key, before, after


def _layers(a: Run, b: Run) -> Iterator[tuple[str, str, str, str]]:
    x, y = (_by_layer(run) for run in (a, b))
    for name in dict.fromkeys((*x, *y)):
        if name not in x or name not in y:
            yield name, "is there", "yes" if name in x else "no", "yes" if name in y else "no"
            continue
        for what, before, after in _differing(x[name], y[name]):
            yield name, what, before, after


def _by_layer(run: Run) -> dict[str, dict[str, str]]:
    found = {}
    for d in (run.plan or {"layers": []})["layers"]:
        computes = "integers" if d["quantized"] else f"float: {d['reason']}"
        settings = {k.replace("_", " "): str(v) for k, v in d["settings"].items()}
        found[d["layer"]] = {
            "computes in": computes,
            **settings,
            "rule": rule_text(d["rule"]),
        }
    return found


def _quantizers(a: Run, b: Run) -> Iterator[tuple[str, str, str, str]]:
    x, y = (_by_tensor(run) for run in (a, b))
    for key in dict.fromkeys((*x, *y)):
        tensor = key[0]
        if key not in x or key not in y:
            yield tensor, "is quantized", "yes" if key in x else "no", "yes" if key in y else "no"
            continue
        before, after = x[key], y[key]
        for what in ("type", "algorithm"):
            if before[what] != after[what]:
                yield tensor, what, before[what], after[what]
        if "range" in before and "range" in after and not _same(ends(before), ends(after)):
            yield tensor, "range", _range(before), _range(after)
        if "range" not in before and _scales(before) != _scales(after):
            yield tensor, "scales", _scales(before), _scales(after)


def _by_tensor(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """Return quantizers by tensor and its first reader: of several at one tensor each is told."""
    tensors = (run.plan or {"tensors": []})["tensors"]
    counts: dict[str, int] = {}
    for t in tensors:
        counts[t["tensor"]] = counts.get(t["tensor"], 0) + 1
    return {
        (t["tensor"], str(t["readers"][:1]) if counts[t["tensor"]] > 1 else ""): t for t in tensors
    }


def _same(x: tuple[float, float], y: tuple[float, float]) -> bool:
    width = max(x[1] - x[0], y[1] - y[0])
    return max(abs(x[0] - y[0]), abs(x[1] - y[1])) <= SAME * width


def _range(t: Mapping[str, Any]) -> str:
    return "{} … {}".format(*map(figure, ends(dict(t))))


def _scales(t: Mapping[str, Any]) -> str:
    scales = [as_float(s) for s in (t["scale"] if isinstance(t["scale"], list) else [t["scale"]])]
    return (
        f"{len(scales)}: {min(scales):.3g} … {max(scales):.3g}"
        if len(scales) > 1
        else f"{scales[0]:.3g}"
    )
