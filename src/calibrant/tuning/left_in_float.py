"""Leave in float what integers cannot carry, where the outputs collapse otherwise.

Some tensors span more than any grid of 8 bits can hold: powers of a spectrum in front of a logarithm, identities, positions.
A layer that reads one spoils the outputs by itself. Where outputs have collapsed on samples that the ranges do not come
from, and the recipe speaks of single layers at most, each layer is quantized alone. Those that alone leave next to
nothing stay in float, if the outputs are then clearly better. The summary names them in a warning.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from calibrant.analysis.collapse import part_qualities
from calibrant.analysis.judge import Judge
from calibrant.analysis.parts import parts_of
from calibrant.analysis.sensitivity import Alone, one_layer
from calibrant.findings import LeftInFloat
from calibrant.recipe import Layer, LayerInput, Recipe, Rule, Search, Settings
from calibrant.runtime.measure import SQNR_LIMITS, Outputs, compare
from calibrant.runtime.part_quality import PartQuality
from calibrant.tuning.promotion import fixed_layers
from calibrant.tuning.road import solve
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store
from calibrant.tuning.unseen import unseen_outputs

__all__ = ["solve_or_leave"]

#: A layer that alone leaves no more than this cannot be carried by integers: the error is a third of the signal [dB].
HOPELESS_DB = 10.0
#: A layer is judged on so many samples, or on those there are.
SAMPLES = 16
#: What is said of such a layer.
REASON = "the outputs collapse where it is quantized"
#: What the parts of the outputs have to gain, on average [dB].
GAIN_DB = 3.0


def solve_or_leave(store: Store, recipe: Recipe) -> tuple[Solved, Outputs]:
    """Return the solution of a recipe, and what it answers to samples that its ranges do not come from.

    Args:
        store: The model, its data, and what is known of them.
        recipe: What is wanted.

    Raises:
        ModelError, DataError, ConfigError: As `tuning.road.solve`.
    """
    solved = solve(store, recipe)
    outputs = unseen_outputs(solved, store.known)
    if not _is_open(recipe) or not outputs:
        return solved, outputs
    before = _parts(solved, outputs)
    if not any(p.collapsed for p in before):
        return solved, outputs
    hopeless = _hopeless(solved, recipe, store)
    if not hopeless or len(hopeless) == sum(d.quantized for d in solved.solution.plan.layers):
        return solved, outputs
    rules = [Rule(Layer(glob.escape(n)), Settings(compute="float32"), REASON) for n in hopeless]
    other = solve(store, recipe.with_rules(*rules), solved.guide)
    other = replace(
        other, halves=other.halves or solved.halves
    )  # with a guide, no halves are looked at
    answers = unseen_outputs(other, store.known)
    if not answers:
        return solved, outputs
    db, left_db = _mean_db(before), _mean_db(_parts(other, answers))
    if left_db < db + GAIN_DB:
        return solved, outputs
    findings = replace(
        other.findings,
        trials=solved.findings.trials,
        left_in_float=LeftInFloat(hopeless, db, left_db),
    )
    solution = other.solution
    layers = [replace(d, reason=REASON) if d.node in hopeless else d for d in solution.plan.layers]
    solution = replace(solution, plan=replace(solution.plan, layers=tuple(layers)))
    return replace(other, findings=findings, solution=solution), answers


def _hopeless(solved: Solved, recipe: Recipe, store: Store) -> dict[str, float]:
    """Return the layers that alone leave next to nothing, the worst first, and what they leave [dB].

    That is the SQNR of the worst output over all samples together: one sample that is right by chance hides no others.
    """
    solution, probe = solved.solution, solved.probe
    assert probe is not None
    model, plan = solution.model, solution.plan
    search = Search(metric="sqnr", samples=min(SAMPLES, max(1, probe.samples)))
    judge = Judge.of(search, model, probe, store.runtime)
    alone = Alone.of(model, plan, solution.params, judge, store.runtime)
    reference = alone.judge.reference
    fixed, found = fixed_layers(recipe, model, plan), {}
    for name in (d.node for d in plan.layers if d.quantized and d.node not in fixed):
        outputs, _ = one_layer(alone.whole, alone.reading, name, range(len(reference)))
        answers = [{**ref, **out} for ref, out in zip(reference, outputs, strict=True)]
        found[name] = min((q.sqnr_db for q in compare(reference, answers)), default=math.inf)
    worst = sorted((n for n in found if found[n] <= HOPELESS_DB), key=lambda n: found[n])
    return {n: found[n] for n in worst}


def _is_open(recipe: Recipe) -> bool:
    """Whether a recipe speaks of single layers at most, and asks for numbers that mean something."""
    single = all(
        isinstance(r.where, Layer | LayerInput) and not r.settings.candidates for r in recipe.rules
    )
    asks = recipe.search is not None or recipe.promote is not None or recipe.equalize == "off"
    vendors = recipe.tiny_scales == "one" or recipe.output_precision != "float32"
    return single and not (asks or vendors or recipe.calibration.random)


def _parts(solved: Solved, outputs: Outputs) -> list[PartQuality]:
    """Return what the parts of the outputs are like, those that the float model varies."""
    assert solved.probe is not None
    probe, model = solved.probe, solved.solution.model
    names = [n for n in probe.scored if n in outputs[0]]
    reference: Sequence[Mapping[str, np.ndarray]] = probe.scored_reference[: len(outputs)]
    parts = {n: parts_of(model, n, [r[n] for r in reference]) for n in names}
    sizes = [b.size for b in probe.small[: len(outputs)]]
    found = part_qualities(reference, outputs, parts, sizes=sizes)
    return [p for of in found.values() for p in of if not p.constant]


def _mean_db(parts: Sequence[PartQuality]) -> float:
    return (
        float(np.mean([np.clip(p.sqnr_db, *SQNR_LIMITS) for p in parts]))
        if parts
        else SQNR_LIMITS[1]
    )
