"""What is tried, in order: moves for single places, for sets of the worst, and for the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from calibrant.diagnose.advice.moves import MOVES, Move, algorithms_for, rules_for
from calibrant.diagnose.advice.risks import risk_of
from calibrant.diagnose.advice.steps import Tried
from calibrant.diagnose.advice.units import Unit
from calibrant.diagnose.triage import Finding, Mask
from calibrant.recipe import AlgorithmChoice, AllNodes, LayerInput, Recipe, Rule, Settings
from calibrant.solution import Solution

__all__ = ["clamps", "everywhere", "mended_data", "sets", "singles", "tried"]

#: Places that are looked at one by one, at most.
PLACES = 3

#: A place whose loss is a smaller share of all is not looked at by itself.
LEAST_SHARE = 0.02

#: Shares of all losses that sets of places make.
SETS = (0.5, 0.8, 1.0)

#: A step for the whole model names the layers that make so much of the loss, and so many of them at most.
MOST, FEW = 0.8, 10

#: Algorithms that are tried for all activations.
_ALGORITHMS = ("mse", "percentile", "kl", "min-max")


def tried(
    base: Recipe,
    rules: tuple[Rule, ...],
    *,
    layers: tuple[str, ...],
    cause: str,
    seen: str,
    move: Move,
    units: int = 1,
    evidence: str = "",
    whole: bool = False,
) -> Tried:
    """Return what a move comes to for a recipe."""
    return Tried(
        layers,
        cause,
        seen,
        move.done,
        move.name,
        move.price,
        move.costs,
        base.with_rules(*rules),
        Recipe(rules=rules, target=base.target),
        units,
        evidence,
        whole,
    )


def clamps(masks: Sequence[Mask], base: Recipe) -> Iterator[Tried]:
    """Yield the clamping of masks: the range of the values that count, and room below for a mask."""
    if not masks:
        return
    rules = []
    for mask in masks:
        low, high = mask.range
        choice = AlgorithmChoice.of("fixed", {"low": low, "high": high})
        rules += [
            Rule(LayerInput(n, i), Settings(activation=choice), "advice") for n, i in mask.edges
        ]
    yield tried(
        base,
        tuple(rules),
        layers=tuple(dict.fromkeys(n for m in masks for n, _ in m.edges)),
        cause="mask",
        seen=f"a mask of {min(m.value for m in masks):.3g} sets the range",
        move=Move("clamp", "range of the values that count, the mask at its end", 0, ""),
    )


def mended_data(finding: Finding, base: Recipe) -> Tried:
    """Return calibration data like evaluation data as a step."""
    return Tried(
        (),
        "data",
        finding.saw.rstrip("."),
        "mend the calibration data",
        "data",
        0,
        "",
        base,
        Recipe(target=base.target),
        evidence=finding.do,
    )


def singles(units: Sequence[Unit], solution: Solution, base: Recipe) -> Iterator[Tried]:
    """Yield moves for the worst places, each by itself; `clamps` is for masks."""
    plan = solution.plan
    total = sum(u.loss for u in units) or 1.0
    for unit in [u for u in units[:PLACES] if u.loss >= LEAST_SHARE * total and not u.masked]:
        risk = risk_of(unit, solution.model)
        moves = [*algorithms_for(unit.cause), *MOVES]
        for move in [m for m in moves if m.fits(unit, plan, plan.target)]:
            yield tried(
                base,
                rules_for(move, [unit]),
                layers=unit.layers,
                cause=unit.cause,
                seen=seen(unit),
                move=move,
                evidence=risk.text if risk is not None else "",
            )


def sets(units: Sequence[Unit], solution: Solution, base: Recipe) -> Iterator[Tried]:
    """Yield moves for so many of the worst places that they make a share of all losses."""
    plan = solution.plan
    total = sum(u.loss for u in units)
    if not total > 0:
        return
    done: dict[str, int] = {}
    for share in SETS:
        for move in [m for m in MOVES if m.sets]:
            count, part = 0, 0.0
            while count < len(units) and part < share * total * (1 - 1e-9):
                part += units[count].loss
                count += 1
            every = share == 1.0
            chosen = [u for u in units[:count] if every or move.fits(u, plan, plan.target)]
            if len(chosen) <= done.get(move.name, 1) or not any(
                move.fits(u, plan, plan.target) for u in chosen
            ):
                continue
            done[move.name] = len(chosen)
            if move.name == "float32" and _most(chosen, solution):
                continue  # hardly a quantized model
            yield tried(
                base,
                rules_for(move, chosen, every=every),
                layers=tuple(dict.fromkeys(n for u in chosen for n in u.layers)),
                cause=_cause(chosen),
                seen=f"{len(chosen)} of {len(units)} quantizers make {part / total:.0%} of the loss",
                move=move,
                units=len(chosen),
            )


def everywhere(units: Sequence[Unit], solution: Solution, base: Recipe) -> Iterator[Tried]:
    """Yield what can be done about the model as a whole."""
    activations = [u for u in units if u.kind == "activation"]
    layers = _most_of(units)
    used = {d.algorithm.name for d in solution.plan.activations if d.fixed_range is None}
    for name in _ALGORITHMS:
        if used == {name} or not activations:
            continue
        move = Move("algorithm", f"ranges by {name}", 0, "")
        rule = Rule(AllNodes(), Settings(activation=AlgorithmChoice(name)), "advice")
        yield tried(
            base,
            (rule,),
            layers=_most_of(activations),
            cause=_cause(activations),
            seen="all activations",
            move=move,
            units=len(units),
            whole=True,
        )

    def switched(name: str, done: str, cause: str, change: Callable[[Recipe], Recipe]) -> Tried:
        found = tried(
            base,
            (),
            layers=layers,
            cause=cause,
            seen="the whole model",
            move=Move(name, done, 0, ""),
            units=len(units),
            whole=True,
        )
        return replace(found, recipe=change(found.recipe), added=change(found.added))

    if base.equalize == "off" and solution.plan.target.equalize:
        done = "channels equalized between layers"
        yield switched("equalize", done, "range", lambda r: replace(r, equalize="on"))
    if base.bias_correction == "off":
        done = "biases corrected"
        yield switched("bias-correction", done, "bias", lambda r: replace(r, bias_correction="on"))


def _most(units: Sequence[Unit], solution: Solution) -> bool:
    """Whether more than half of the quantized layers are among those that quantizers stand at."""
    layers = {d.node for d in solution.plan.layers if d.quantized}
    touched = layers & {n for u in units for n in (*u.layers, *u.nodes)}
    return 2 * len(touched) > len(layers)


def seen(unit: Unit) -> str:
    """Return what is wrong with a quantizer, a clause."""
    noise = unit.noise
    what = "its weight" if unit.kind == "weight" else f"'{unit.name}'"
    share = noise.clipping / noise.energy if noise.energy > 0 else 0.0
    if unit.masked:
        return f"{what} holds a mask"
    if noise.cause == "clipping":
        return f"{what} is clipped ({share:.0%} of the error of its quantizer)"
    if noise.holders:
        holders = len(noise.holders)
        verb = "holds" if holders == 1 else "hold"
        return f"{holders} of {noise.channels} channels {verb} the range of {what}"
    if noise.has_outliers:
        return (
            f"few values hold the range of {what} (up to {noise.largest:.3g}, all but 1 in 10,000 below "
            f"{noise.tail:.3g})"
        )
    if noise.is_unused:
        return f"the range of {what} reaches {noise.end:.3g}, its values {noise.largest:.3g}: most of it is not used"
    return f"{what} is rounded too coarsely"


def _most_of(units: Sequence[Unit]) -> tuple[str, ...]:
    """Return the layers of the worst places, so many that they make most of the loss, and not more than a few."""
    total, part = sum(u.loss for u in units), 0.0
    found: dict[str, None] = {}
    for unit in units:
        if part >= MOST * total or len(found) >= FEW:
            break
        part += unit.loss
        found |= dict.fromkeys(unit.layers)
    return tuple(found)


def _cause(units: Sequence[Unit]) -> str:
    """Return the cause of the largest part of the loss."""
    losses: dict[str, float] = {}
    for u in units:
        losses[u.cause] = losses.get(u.cause, 0.0) + u.loss
    return max(losses, key=lambda c: losses[c])
