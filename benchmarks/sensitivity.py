"""What does ranking all layers cost, in passes of the samples and in time, and what does the budget give away?

    python benchmarks/sensitivity.py [CASE …] [--aimet PYTHON] [--quark PYTHON]

Each line ranks every quantized layer in int8 on 64 samples: once within the default budget, once with all layers measured on
all samples. The aim: at most 0.45 passes a layer for a network of 20 layers. `off` is the largest distance of an estimated
score from the measured one, `same` how many of the five worst layers are the same. `s` is the time of the analysis alone, without
quantization. With the Python of an environment that has them, the analysers of AIMET (one layer quantized alone) and of Quark
(all in int8 but one in int16) rank the same layers on the same samples; `same` is then against ours, all samples, of that kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import case_names, load_case, parser, publish, split, table

import calibrant

SAMPLES = 64

#: Tools whose analysers stand beside ours, and which of our questions theirs is.
RIVALS = {"aimet": "alone", "quark": "all-but"}


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__)
    for tool in RIVALS:
        options.add_argument(f"--{tool}", metavar="PYTHON", help=f"a Python that has {tool}")
    arguments = options.parse_args()
    pythons = {t: getattr(arguments, t) for t in RIVALS if getattr(arguments, t)}
    rows: list[list[object]] = []
    for name in case_names(arguments.cases or ["resnet20-cifar10"]):
        rows += _case(name, pythons)
    sys.argv = ["PYTHON" if a in pythons.values() else a for a in sys.argv]  # as the page shows it
    columns = (
        "case",
        "mode",
        "layers",
        "passes",
        "a layer",
        "nodes",
        "s",
        "s a layer",
        "off, dB",
        "same of 5",
    )
    publish(
        "sensitivity",
        "Ranking layers by what they lose",
        f"All quantized layers in int8 on {SAMPLES} samples. `passes` are passes of these samples through the model, in "
        "multiplications; `nodes` are executed nodes over layers times those of one pass; `s` is the analysis alone. AIMET measures all nodes that it "
        "quantizes, Quark raises one layer at a time to int16; `same of 5` is against ours of that kind, all samples.\n\n"
        + table(columns, rows),
    )


def _case(name: str, pythons: dict[str, str]) -> list[list[object]]:
    case = load_case(name)
    data = next(iter(split(case.calib(), SAMPLES)))
    rows: list[list[object]] = []
    worst: dict[str, list[str]] = {}
    for mode in ("alone", "all-but"):
        exact, _ = _run(case, data, mode, None)
        worst[mode] = [r.name for r in exact.layers]
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
                    f"{seconds / layers:.2f}",
                    f"{off:.2f}",
                    len(same),
                ]
            )
    for tool, python in pythons.items():
        ranked = _rival(tool, python, case, data)
        ours = worst[RIVALS[tool]]
        layers = [n for n in ranked["layers"] if n in set(ours)]
        same = len({*layers[:5]} & {*ours[:5]})
        count, took = len(ranked["layers"]), ranked["seconds"]
        mode = f"{RIVALS[tool]}, {ranked['tool']}"
        rows.append(
            [name, mode, count, "", "", "", f"{took:.1f}", f"{took / count:.2f}", "", same]
        )
    return rows


def _rival(tool: str, python: str, case: Any, data: Any) -> dict[str, Any]:
    script = Path(__file__).with_name("_analysers.py")
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "data.npz"
        np.savez(samples, **data)
        done = subprocess.run(
            [python, str(script), tool, str(case.model_path), str(samples)],
            check=True,
            capture_output=True,
            text=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(case: Any, data: Any, mode: Any, budget: float | None) -> tuple[Any, float]:
    began: list[float] = []

    def told(stage: str, done: int, of: int | None) -> None:
        if stage.startswith("layers in") and not began:
            began.append(time.perf_counter())

    found = calibrant.sensitivity(
        str(case.model_path), data, mode=mode, samples=SAMPLES, budget=budget, progress=told
    )
    return found, time.perf_counter() - began[0]


if __name__ == "__main__":
    main()
