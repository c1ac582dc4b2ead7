"""What does ranking all layers cost, in passes of the samples and in time, and what does the budget give away?

    python benchmarks/sensitivity.py [CASE …]

Each line ranks every quantized layer in int8 on 64 samples: once within the default budget, once with all layers measured on
all samples. The aim: at most 0.45 passes a layer for a network of 20 layers. `off` is the largest distance of an estimated
score from the measured one, `same` how many of the five worst layers are the same.
"""

from __future__ import annotations

import time
from typing import Any

from _common import case_names, load_case, parser, publish, split, table

import calibrant

SAMPLES = 64


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    rows: list[list[object]] = []
    for name in case_names(arguments.cases or ["resnet20-cifar10"]):
        rows += _case(name)
    columns = ("case", "mode", "layers", "passes", "a layer", "nodes", "s", "off, dB", "same of 5")
    publish(
        "sensitivity",
        "Ranking layers by what they lose",
        f"All quantized layers in int8 on {SAMPLES} samples. `passes` are passes of these samples through the model, in "
        "multiplications; `nodes` are executed nodes over layers times those of one pass.\n\n"
        + table(columns, rows),
    )


def _case(name: str) -> list[list[object]]:
    case = load_case(name)
    data = next(iter(split(case.calib(), SAMPLES)))
    rows: list[list[object]] = []
    for mode in ("alone", "all-but"):
        exact, _ = _run(case, data, mode, None)
        for budget in (0.45, None):
            found, seconds = _run(case, data, mode, budget)
            scores = {r.name: r.score for r in exact.layers}
            off = max(abs(r.score - scores[r.name]) for r in found.layers)
            same = {r.name for r in found.layers[:5]} & {r.name for r in exact.layers[:5]}
            layers = len(found.layers)
            rows.append(
                [
                    name,
                    f"{mode}, {'all samples' if budget is None else f'budget {budget}'}",
                    layers,
                    f"{found.work['passes']:.2f}",
                    f"{found.work['passes'] / layers:.3f}",
                    f"{found.work['node_passes'] / layers:.3f}",
                    f"{seconds:.1f}",
                    f"{off:.2f}",
                    len(same),
                ]
            )
    return rows


def _run(case: Any, data: Any, mode: Any, budget: float | None) -> tuple[Any, float]:
    start = time.perf_counter()
    found = calibrant.sensitivity(
        str(case.model_path), data, mode=mode, samples=SAMPLES, budget=budget
    )
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
