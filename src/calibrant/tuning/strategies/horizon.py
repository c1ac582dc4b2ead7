"""The accuracy tuning of Horizon's OpenExplorer: from int8 to the widest type that is needed, and back to as little of it as is enough.

    A   the recipe as it is, all nodes int8                                             met -> done
    B   other calibration methods, where the recipe leaves the method open              met -> done
    C1  all nodes int16                                                                 met -> D
    C2  … and the operands that stay in 8 bits under int16 have 16 bits, too            met -> F
    C3  all nodes float16                                                               met -> G, else H
    D   int8, the worst nodes int16
    F   int16, the worst of these operands with error compensation, or with 16 bits
    G   int16 on all operands, the worst nodes float16
    H   float16, the worst nodes float32

D, G and H rank nodes once, by the cosine similarity of the model's outputs with one node alone in the narrower type. In round
k every node at or below threshold k of 0.99, 0.999, 0.9999, 0.99999 is raised; the first round that meets the requirement
wins. Inside it the fewest leading nodes are found by halving, and then nodes are given back, those of most multiplications
first. Where no round is enough, the upper bound stands.

D calibrates with the method that C1 chose. Phases of types that are not allowed are left out.

Source: the precision tuning chapter and the tuning script in the public documentation of Horizon's OpenExplorer; giving nodes
back within a round is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from calibrant.recipe import Recipe, Settings
from calibrant.tuning.driver import Strategy
from calibrant.tuning.questions import Reached
from calibrant.tuning.strategies.quant_types import (
    all_nodes,
    methods,
    nodes_as,
    operands_as,
    pinned,
    wide_operands,
)
from calibrant.tuning.strategies.recipes import (
    Alone,
    Decided,
    LayerAlone,
    NarrowOperands,
    Operand,
    Outcome,
    RecipeQuestion,
    Try,
)

__all__ = ["FOLDERS", "THRESHOLDS", "horizon"]

#: Nodes at or below these cosines are raised, in round after round.
THRESHOLDS = (0.99, 0.999, 0.9999, 0.99999)

A, B, C1, C2, C3, D, F, G, H = (
    "A int8",
    "B calibration method",
    "C1 all int16",
    "C2 all operands int16",
    "C3 all float16",
    "D int8 and int16",
    "F int16 and single operands",
    "G int16 and float16",
    "H float16 and float32",
)

#: Phase -> the folder that it is written to.
FOLDERS = {
    A: "output_int8",
    C1: "output_int16",
    D: "output_int8_int16_mixed",
    C2: "output_dual_int16",
    F: "output_int16_dual_int16_mixed",
    C3: "output_float16",
    G: "output_dual_int16_float16_mixed",
    H: "output_float16_float32_mixed",
}

_ALONE = "cosine similarity of the outputs with one node alone in"


def horizon(recipe: Recipe, precisions: Sequence[str]) -> Strategy[RecipeQuestion, Any, Outcome]:
    """Return the recipe with as little of the wider types as is enough.

    Args:
        recipe: The recipe in int8.
        precisions: Types that nodes may have, among `int8`, `int16`, `float16` and `float32`.
    """
    walk = _Walk(recipe)
    if (yield from walk.met(recipe, A, "the recipe as it is")):
        return walk.found("int8 meets the requirement.")
    for change, changed in methods(recipe):
        if (yield from walk.met(changed, B, change)):
            return walk.found(
                f"int8 with another calibration method meets the requirement: {change}."
            )
    base = walk.best.recipe
    wide = all_nodes(base, "int16")
    if "int16" in precisions:
        if (yield from walk.met(wide, C1, "all nodes int16")):
            method: Settings | None = yield Decided(wide)
            narrow = pinned(base, method)
            rows = yield from walk.ranked(Alone(narrow), "int8")
            return (yield from walk.mixed(D, narrow, "int16", rows, "all nodes int16"))
        found = yield from _operands(walk, wide)
        if found is not None:
            return found
        wide = wide_operands(wide, (yield NarrowOperands(wide)))[0]
    half = all_nodes(base, "float16")
    if "float16" in precisions and (yield from walk.met(half, C3, "all nodes float16")):
        if "int16" not in precisions:
            rows = yield from walk.ranked(Alone(base), "int8")
            return (yield from walk.mixed(G, base, "float16", rows, "all nodes float16"))
        rows = yield from walk.ranked(Alone(wide), "int16")
        return (yield from walk.mixed(G, wide, "float16", rows, "all nodes float16"))
    low, name = (half, "float16") if "float16" in precisions else (wide, "int16")
    if not {"int16", "float16"} & set(precisions):
        low, name = base, "int8"
    rows = yield from walk.ranked(
        Alone(base if name == "float16" else low, name == "float16"), name
    )
    if not (yield from walk.met(all_nodes(base, "float32"), H, "all nodes float32")):
        return Outcome(None, "The float model itself does not meet the requirement.")
    return (yield from walk.mixed(H, low, "float32", rows, "all nodes float32"))


def _operands(walk: _Walk, wide: Recipe) -> Strategy[RecipeQuestion, Any, Outcome | None]:
    """Find the fewest nodes whose narrow operands have to be wider under int16; None where that is not enough."""
    narrow: tuple[Operand, ...] = yield NarrowOperands(wide)
    if not narrow:
        return None
    if not (yield from walk.operands(wide, narrow, C2, "all operands have 16 bits")):
        return None
    rows = yield from walk.ranked(Alone(wide), "int16")
    nodes = {node for node, _, _ in narrow}
    order = [r.layer for r in rows if r.layer in nodes]

    def of(count: int) -> tuple[Operand, ...]:
        return tuple(o for o in narrow if o[0] in set(order[:count]))

    low, high = 0, len(order)
    while high - low > 1:
        mid = (low + high) // 2
        said = f"16 bits for the operands of {_nodes(mid)}"
        if (yield from walk.operands(wide, of(mid), F, said)):
            high = mid
        else:
            low = mid
    chosen = of(high)
    compensated = operands_as(wide, chosen, "ec")
    if compensated is not None and (
        yield from walk.met(
            compensated, F, f"error compensation for the operands of {_nodes(high)}"
        )
    ):
        return walk.found(f"int16 with error compensation for the operands of {_nodes(high)}.")
    paired, left = wide_operands(wide, chosen)
    if left:
        return None
    said = f"both operands of {_nodes(high)} in 16 bits (dual-int16)"
    return walk.found(f"int16 with {said}.") if (yield from walk.met(paired, F, said)) else None


@dataclass(slots=True)
class _Walk:
    """The walk so far.

    Args:
        start: The recipe that it began with.
    """

    start: Recipe
    last: Try | None = None
    _best: Try | None = None
    _least: float = float("inf")
    _ranking: dict[str, float] = field(default_factory=dict)
    _ranked_by: str = ""

    @property
    def best(self) -> Try:
        """What lost least."""
        assert self._best is not None
        return self._best

    def met(
        self, recipe: Recipe, phase: str, change: str, raised: tuple[Operand, ...] = ()
    ) -> Strategy[RecipeQuestion, Any, bool]:
        """Try a recipe, and return whether it meets the requirement."""
        asked = Try(recipe, phase, change, raised)
        reached: Reached = yield asked
        if reached.met:
            self.last = asked
        if self._best is None or reached.loss < self._least:
            self._best, self._least = asked, reached.loss
        return reached.met

    def operands(
        self, wide: Recipe, narrow: tuple[Operand, ...], phase: str, change: str
    ) -> Strategy[RecipeQuestion, Any, bool]:
        """Try 16 bits for operands; those that no recipe can ask it for are raised behind the calibration."""
        recipe, left = wide_operands(wide, narrow)
        return (yield from self.met(recipe, phase, change, left))

    def ranked(
        self, asked: Alone, precision: str
    ) -> Strategy[RecipeQuestion, Any, tuple[LayerAlone, ...]]:
        """Rank nodes, the one that loses most first."""
        rows: tuple[LayerAlone, ...] = yield asked
        found = tuple(sorted(rows, key=lambda r: r.cosine))
        self._ranking = {r.layer: r.cosine for r in found}
        self._ranked_by = f"{_ALONE} {precision}"
        return found

    def found(self, reason: str, advice: tuple[str, ...] = ()) -> Outcome:
        """Return the last recipe that met the requirement."""
        return Outcome(self.last, reason, self._ranking, self._ranked_by, advice)

    def mixed(
        self, phase: str, low: Recipe, high: str, rows: Sequence[LayerAlone], bound: str
    ) -> Strategy[RecipeQuestion, Any, Outcome]:
        """Raise the worst nodes of a recipe until it is enough, as few as are needed; the upper bound has met it already.

        Args:
            phase: The phase.
            low: Recipe in the narrower type.
            high: The wider type.
            rows: Nodes, the one that loses most first.
            bound: The upper bound, in words.
        """
        upper = self.last

        def tried(nodes: Sequence[str], change: str) -> Strategy[RecipeQuestion, Any, bool]:
            return (yield from self.met(nodes_as(low, nodes, high), phase, change))

        before = 0
        for number, threshold in enumerate(THRESHOLDS, 1):
            count = sum(r.cosine <= threshold for r in rows)
            if count == before:
                continue
            said = f"round {number}: {_nodes(count)} at or below {threshold:g} in {high}"
            if (yield from tried([r.layer for r in rows[:count]], said)):
                nodes = yield from self._fewest(rows, before, count, high, tried)
                return self.found(
                    f"{phase[2:]}: {_nodes(len(nodes))} in {high}, found in round {number}."
                )
            before = count
        self.last = upper
        return self.found(
            f"No round of raising nodes to {high} is enough, so the upper bound stands: {bound}.",
            (
                "Raising nodes by what each loses alone does not help here; `calibrant advise` looks for risky patterns, such "
                "as masks of attention and branches of very different ranges.",
            ),
        )

    def _fewest(
        self,
        rows: Sequence[LayerAlone],
        failed: int,
        met: int,
        high: str,
        tried: Callable[[Sequence[str], str], Strategy[RecipeQuestion, Any, bool]],
    ) -> Strategy[RecipeQuestion, Any, list[str]]:
        """Return fewer nodes that are enough: the fewest leading ones, then without those that can be given back."""
        while met - failed > 1:
            mid = (failed + met) // 2
            if (
                yield from tried(
                    [r.layer for r in rows[:mid]], f"the worst {_nodes(mid)} in {high}"
                )
            ):
                met = mid
            else:
                failed = mid
        nodes = [r.layer for r in rows[:met]]
        for row in sorted(rows[:met], key=lambda r: -r.macs):
            rest = [n for n in nodes if n != row.layer]
            if rest and (yield from tried(rest, f"'{row.layer}' is given back")):
                nodes = rest
        return nodes


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
