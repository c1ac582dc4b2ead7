"""How many evaluations does it take to meet a requirement, and what does the result cost?

    python benchmarks/tuning.py [CASE …] [--strategies NAMES]

Each strategy gets the same model, calibration data, score and requirement, on target `generic`. `greedy` is the usual search:
each layer alone is raised to int16 and evaluated, then layers are raised in that order, one more at a time, until it is enough.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from _common import case_names, load_case, parser, publish, say, table

import calibrant
from calibrant.tuner import TuningResult, road
from calibrant.tuner.precisions import precision_of
from calibrant.tuning.driver import Strategy
from calibrant.tuning.menu import Assignment, Menu
from calibrant.tuning.questions import Found, Full, Question, Reached, Trial

STRATEGIES = ("auto", "greedy", "amct-rollback", "amct-manual", "ascend-traverse", "horizon")

#: SQNR that is asked for [dB]; where the defaults in int8 have it already, so much more than they have.
LEAST_DB, MORE_DB = 20.0, 4.0

#: Evaluations of a procedure, at most: the grid of `ascend-traverse` has more than a hundred.
MOST = 60

BITS = {"int8": 8, "ec": 16, "int16": 16, "float16": 16, "float32": 32}


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__)
    options.add_argument("--strategies", default=",".join(STRATEGIES), help="names, with commas")
    arguments = options.parse_args()
    road.STRATEGIES["greedy"] = greedy  # type: ignore[index]
    rows: list[list[object]] = []
    for name in case_names(arguments.cases or ["kws-dscnn", "mobilenetv1-025-imagenet"]):
        rows += _case(name, arguments.strategies.split(","))
    columns = (
        "case",
        "required",
        "strategy",
        "met",
        "score",
        "trials",
        "full",
        "samples in shorter runs",
        "cost",
        "layers",
        "s",
    )
    publish(
        "tuning",
        "Meeting a requirement: evaluations and cost",
        "Target `generic`; cost is multiplications times bits over that of all layers with weights in int8, so 1 is the least "
        "there is and 4 the float model. `trials` are quantized models that were evaluated; `full` are passes over all "
        "evaluation samples, the float model's among them. Nothing is held out, and an evaluation of `top1` ends early only where no "
        "sample that is left can change its answer. `greedy` raises layers to int16 in the order of what each alone wins. The vendors' "
        f"procedures begin with their own defaults and end after {MOST} evaluations.\n\n"
        + table(columns, rows),
    )


# ------------------------------------------------------------------------------------------------ greedy


def greedy(menu: Menu, *_: object, **__: object) -> Strategy[Question, Any, Found]:
    """Raise layers one by one, those first that win most when each alone is raised."""
    low, high = menu.precisions[0], menu.precisions[1]
    trials: list[Trial] = []

    def evaluated(raised: set[str], phase: str) -> Strategy[Question, Any, Trial]:
        assignment: Assignment = tuple(high if n in raised else low for n in menu.layers)
        reached: Reached = yield Full(assignment, phase)
        trial = Trial(assignment, menu.cost_of(assignment), None, None, reached, phase)
        trials.append(trial)
        return trial

    first = yield from evaluated(set(), "all in int8")
    if first.reached.met:
        return Found(first, tuple(trials), "The cheapest assignment meets the requirement.")
    losses = {}
    for layer in menu.layers:
        trial = yield from evaluated({layer}, "one layer alone")
        losses[layer] = trial.reached.loss
    raised: set[str] = set()
    for layer in sorted(menu.layers, key=lambda n: losses[n]):
        raised.add(layer)
        if len(raised) == 1:
            trial = next(t for t in trials if menu.raised(t.assignment).keys() == raised)
        else:
            trial = yield from evaluated(set(raised), "one layer more")
        if trial.reached.met:
            return Found(trial, tuple(trials), "Enough layers are raised.")
    best = min(trials, key=lambda t: t.reached.loss)
    return Found(best, tuple(trials), "All layers are raised, and it is not enough.")


# ------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class _Costs:
    """Multiplications of each layer with a weight."""

    macs: dict[str, float]

    @classmethod
    def of(cls, result: TuningResult) -> _Costs:
        column = result.menu.precisions.index("int8")
        rows = zip(result.menu.layers, result.menu.cost[:, column], strict=True)
        named = {w.layer for w in result.result.plan.weights}
        every = {n.node for n in result.result.plan.layers if n.op_type in _WEIGHTED} | named
        return cls({n: float(c) / BITS["int8"] for n, c in rows if n in every})

    def relative(self, result: TuningResult) -> float:
        plan = result.result.plan
        spent = sum(m * BITS[precision_of(plan, n)] for n, m in self.macs.items())
        return spent / (BITS["int8"] * sum(self.macs.values()))


_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _case(name: str, strategies: list[str]) -> list[list[object]]:
    case = load_case(name)
    batches = list(case.eval_batches(50))
    data = {n: np.concatenate([b[n] for b in batches]) for n in case.input_names}
    data |= case.references
    rows: list[list[object]] = []
    int8 = calibrant.tune(
        case.model_path, case.calib(), (data, "sqnr_db"), "any", target="generic"
    )
    least = LEAST_DB if int8.score < LEAST_DB else round(int8.score + MORE_DB)
    for metric, required, shown in (
        ("sqnr_db", f"min {least}", f"{least:g} dB"),
        ("top1", "max-drop 0.1%", "top1, 0.1 % less"),
    ):
        costs: _Costs | None = None
        for strategy in strategies:
            say(f"{name}, {shown}: {strategy}")
            start = time.perf_counter()
            result = calibrant.tune(
                case.model_path,
                case.calib(),
                (data, metric),
                required,
                target="generic",
                strategy=strategy,
                holdout=0.0,
                confidence=1.0,
                max_trials=None if strategy == "auto" else 1000 if strategy == "greedy" else MOST,
            )
            taken = time.perf_counter() - start
            costs = costs if costs is not None else _Costs.of(result)
            counts = ", ".join(
                f"{n} {p}" for p, n in result.menu.counts(result.best.assignment).items() if n
            )
            trials = {t.assignment for t in result.search.trials if not t.reached.free}
            if result.told is not None:
                trials = {id(t) for t in result.search.trials if not t.reached.free}
            rows.append(
                [
                    name,
                    shown,
                    strategy,
                    "yes" if result.met else "no",
                    f"{result.score:.4g}",
                    len(trials),
                    result.counts.full,
                    result.counts.partial_samples + result.counts.precheck_samples,
                    f"{costs.relative(result):.3f}",
                    counts,
                    f"{taken:.0f}",
                ]
            )
            say("  " + " | ".join(map(str, rows[-1])))
    return rows


if __name__ == "__main__":
    main()
