"""One weight, several layers, and inputs of very different size: a module that is called more than once."""

from __future__ import annotations

from collections.abc import Iterator

from calibrant.diagnose.triage.finding import Finding
from calibrant.tuning.solved import Solved

__all__ = ["check_shared", "shared_unlike"]

#: Inputs whose ranges differ by more than this are of different distributions.
TIMES = 8.0


def shared_unlike(solved: Solved) -> list[tuple[str, dict[str, float]]]:
    """Return weights that several layers share, with the largest magnitude that each layer reads, where these differ much."""
    model, plan = solved.solution.model, solved.solution.plan
    found: dict[str, dict[str, float]] = {}
    for w in plan.weights:
        read = plan.at((w.layer, 1 - w.input_index))
        stats = solved.statistics.get(read.tensor) if read is not None else None
        source = model.graph.node(w.layer).inputs[w.input_index]
        if stats is None or not stats.count or source is None:
            continue
        found.setdefault(source.name or "", {})[w.layer] = max(abs(stats.min), abs(stats.max))
    return [
        (name, sizes)
        for name, sizes in found.items()
        if len(sizes) > 1 and max(sizes.values()) > TIMES * min(sizes.values())
    ]


def check_shared(solved: Solved) -> Iterator[Finding]:
    """Tell of layers that share a weight and read values of very different size."""
    for weight, sizes in shared_unlike(solved):
        small, large = min(sizes, key=lambda n: sizes[n]), max(sizes, key=lambda n: sizes[n])
        yield Finding(
            "shared weight",
            "shared",
            f"Weight '{weight}' is shared by {len(sizes)} layers that read values of different size: '{small}' up to "
            f"{sizes[small]:.3g}, '{large}' up to {sizes[large]:.3g}.",
            "Give each call a range of its own; a tool that keeps one range for the module clips one of them or rounds the other "
            "away.",
            0.6,
            tuple(sizes),
        )
