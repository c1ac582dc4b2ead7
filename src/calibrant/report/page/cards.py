"""The card of each layer, and what was seen of each tensor and weight, as the scripts of the page read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calibrant.report.evidence.distributions import TensorSeen, WeightSeen
from calibrant.report.evidence.spread import Bars, Boxes
from calibrant.report.page.measured import ComparedLayer, Loss, OriginRow
from calibrant.report.page.numbers import TIMES, as_db, as_percent, figure
from calibrant.report.page.run import Run
from calibrant.report.page.sections.plan import ends, rule_text

__all__ = ["CAUSES", "SAID", "Facts", "card_of", "facts_of"]

#: What errors come from, in words.
CAUSES = {
    "arrived": "arrived",
    "activation_clipping": "activations clipped",
    "activation_rounding": "activations rounded",
    "weight_clipping": "weights clipped",
    "weight_rounding": "weights rounded",
    "bias": "bias",
    "other": "other",
}

#: The same, and what is wrong with a range.
SAID = {
    **CAUSES,
    "activation_range": "activations, whose range few of them hold",
    "activation_mask": "a mask in the range",
    "weight_range": "weights, whose range few of them hold",
}


@dataclass(slots=True)
class Facts:
    """All that is known of the layers of a run, by name.

    Args:
        run: The run.
        layers: What the plan says of a layer.
        seen: Tensors and weights as the page's scripts read them, each once.
        tensors: Index in `seen` by tensor.
        weights: Index in `seen` by layer.
        readers: Tensors that a layer reads quantized, by layer.
        origins: Where errors come from.
        losses: What layers lose.
        compared: Layers of a comparison.
        kept: Nodes that compute in integers because their inputs are.
        advice: What an advice says of a layer.
    """

    run: Run
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, OriginRow] = field(default_factory=dict)
    losses: dict[str, Loss] = field(default_factory=dict)
    compared: dict[str, ComparedLayer] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    advice: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


def facts_of(run: Run) -> Facts:
    """Sort what is known by layer."""
    facts = Facts(run)
    facts.origins = run.origins.by_name() if run.origins is not None else {}
    facts.losses = run.rank.by_name() if run.rank is not None else {}
    facts.compared = run.comparison.by_name() if run.comparison is not None else {}
    facts.kept = frozenset(run.plan["kept_in_integers"] if run.plan is not None else ())
    facts.advice = _advice(run)
    plan = run.plan or {"layers": [], "tensors": []}
    facts.layers = {d["layer"]: d for d in plan["layers"]}
    drawn = run.distributions
    by_tensor = {t.tensor: t for t in drawn.tensors} if drawn is not None else {}
    by_layer = {w.layer: w for w in drawn.weights} if drawn is not None else {}
    for t in plan["tensors"]:
        readers = [r.rpartition(":")[0] for r in t["readers"]]
        if t["role"] == "weight":
            facts.weights[readers[0]] = len(facts.seen)
            facts.seen.append({**_decided(t), **_weight(by_layer.get(readers[0]))})
            continue
        facts.tensors.setdefault(t["tensor"], len(facts.seen))
        facts.seen.append({**_decided(t), **_tensor(by_tensor.get(t["tensor"]))})
        for reader in dict.fromkeys(readers):
            facts.readers.setdefault(reader, []).append(t["tensor"])
    return facts


def card_of(facts: Facts, name: str, op_type: str, outputs: tuple[str, ...]) -> dict[str, Any]:
    """Return the card of one layer."""
    run = facts.run
    card: dict[str, Any] = {"name": name, "op": op_type, "facts": _decision(facts, name)}
    card["inputs"] = [facts.tensors[t] for t in facts.readers.get(name, [])]
    card["outputs"] = [facts.tensors[t] for t in outputs if t in facts.tensors]
    if name in facts.weights:
        card["weight"] = facts.weights[name]
    if (row := facts.origins.get(name)) is not None:
        card["origin"] = _origin(row)
    if run.rank is not None and (loss := facts.losses.get(name)) is not None:
        card["loss"] = [
            (
                "Score of the model",
                figure(loss.score) + (" (estimated)" if loss.estimated else ""),
            ),
            ("Metric", run.rank.metric),
            ("Loss", f"{loss.loss:.3g}"),
            ("Rank by loss", f"{loss.rank} of {len(run.rank.layers)}"),
            ("Rank by loss for its cost", f"{loss.rank_per_cost} of {len(run.rank.layers)}"),
        ]
    if name in facts.advice:
        card["advice"] = facts.advice[name]
    if (compared := facts.compared.get(name)) is not None:
        born = compared.born
        card["compared"] = [
            *((n.replace("_", " "), figure(v)) for n, v in compared.metrics.items()),
            *(
                [("born here", as_percent(born.share)), ("alone", as_db(born.sqnr_db))]
                if born
                else []
            ),
            *(
                [("outputs with it alone", as_db(compared.alone["sqnr_db"]))]
                if "sqnr_db" in compared.alone
                else []
            ),
            ("worst sample", compared.worst_sample),
            ("mean and deviation", compared.standard_deviation),
            (
                "within the limits",
                "yes" if compared.passed else f"no: {', '.join(compared.failed)}",
            ),
        ]
    return card


def _advice(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Return by layer its share of the loss, and the steps that name it."""
    found: dict[str, list[tuple[str, str]]] = {}
    if run.advice is None:
        return found
    for layer, share in run.advice.shares().items():
        found[layer] = [("Of all that is lost", as_percent(share))]
    for i, step in enumerate(run.advice.steps, 1):
        for layer in step.layers:
            found.setdefault(layer, []).append((f"Step {i}, {as_db(step.gain_db)}", step.what))
    return found


def _decision(facts: Facts, name: str) -> list[tuple[str, str]]:
    decided = facts.layers.get(name)
    if decided is None:
        return [("Computes in", "integers, since its inputs are")] if name in facts.kept else []
    found = [("Computes in", "integers" if decided["quantized"] else "float")]
    if decided["reason"]:
        found.append(("Because", decided["reason"]))
    settings = decided["settings"].items()
    found.append(
        ("Settings", "; ".join(f"{k.replace('_', ' ')}: {_word(v)}" for k, v in settings))
    )
    found.append(("Rule that decided", rule_text(decided["rule"])))
    return found


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _decided(t: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the plan says of a tensor."""
    scales = t["scale"] if isinstance(t["scale"], list) else [t["scale"]]
    facts = [
        ("Type", t["type"]),
        ("Chosen by", t["algorithm"]),
        ("Scales", figure(scales[0]) if len(scales) == 1 else f"{len(scales)}, one a channel"),
        ("Rule that decided", rule_text(t["rule"])),
    ]
    if "range" in t:
        low, high = ends(dict(t))
        facts.insert(2, ("Range", f"{figure(low)} … {figure(high)}"))
    return {"name": t["tensor"], "role": t["role"], "facts": facts}


def _tensor(seen: TensorSeen | None) -> dict[str, Any]:
    if seen is None:
        return {}
    return {
        "bars": _bars(seen.bars),
        "ranges": [
            [r.algorithm, r.low, r.high, _number(r.sqnr_db), r.clipped, r.chosen]
            for r in seen.ranges
        ],
        "by_channel": seen.by_channel,
        "count": seen.count,
        "nonfinite": seen.nonfinite,
        **_boxes(seen.channels),
    }


def _weight(seen: WeightSeen | None) -> dict[str, Any]:
    if seen is None:
        return {}
    return {
        "bars": _bars(seen.before),
        "after": _bars(seen.after),
        "more": [
            ("Shape", f" {TIMES} ".join(map(str, seen.shape))),
            ("SQNR of the weight", as_db(seen.sqnr_db)),
            ("Largest difference", figure(seen.largest_error)),
            ("Became 0", as_percent(seen.zeros)),
        ],
        **_boxes(seen.channels),
        **({"limits": list(seen.limits)} if seen.limits else {}),
    }


def _bars(bars: Bars) -> list[Any]:
    return [bars.low, bars.high, list(bars.counts)]


def _boxes(boxes: Boxes | None) -> dict[str, Any]:
    if boxes is None or not boxes.shown:
        return {}
    rows = [[b.channel, b.low, b.q1, b.median, b.q3, b.high] for b in boxes.shown]
    return {"boxes": rows, "channels": boxes.channels}


def _origin(row: OriginRow) -> dict[str, Any]:
    shares = [(text, getattr(row.shares, key)) for key, text in CAUSES.items()]
    return {
        "facts": [
            ("SQNR of its output", as_db(row.shares.sqnr_db)),
            ("Born here", as_percent(row.shares.born)),
            ("Arrived", as_percent(row.shares.arrived)),
            ("Most of what is born", SAID.get(row.cause, "nothing")),
        ],
        "shares": [(text, _number(share)) for text, share in shares],
        "channels": [(c, _number(share)) for c, share in row.channels],
    }


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
