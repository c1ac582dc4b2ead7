"""Forty recipes on one bench, each with other layers raised to 16 bits: what each costs, in passes of the float model.

    python benchmarks/recipes.py [CASE …]

The float pass is one run of the probe's samples in ONNX Runtime; CPU seconds of this process count. `by products` is
what the runs amount to by multiplications (`bench.work.passes`).
"""

from __future__ import annotations

import glob
import sys
import time

from _common import case_names, load_case, ort_session, pin, publish, table

from calibrant import Bench, Layer, Recipe, Rule, Settings

RECIPES = 40
SAMPLES = 32


def measured(name: str) -> list[object]:
    """Solve and score the recipes; return a row of the table."""
    case = load_case(name)
    session = ort_session(case.model_path, 1)
    names = [i.name for i in session.get_inputs()]
    data = {n: x[:SAMPLES] for n, x in case.calib().items() if n in names}
    bench = Bench(case.model_path, data, threads=1)
    base = bench.solve()
    bench.score(base)
    one = min(cpu(lambda: session.run(None, data)) for _ in range(5))
    layers = [d.node for d in base.plan.layers if d.quantized]
    before = bench.work.passes

    def all_of_them() -> None:
        for i in range(RECIPES):
            raised = {layers[i % len(layers)], layers[(i + i // len(layers)) % len(layers)]}
            rules = tuple(
                Rule(Layer(glob.escape(n)), Settings.of_precision("int16")) for n in sorted(raised)
            )
            bench.score(bench.solve(Recipe(rules=rules)))

    total = cpu(all_of_them)
    by_products = (bench.work.passes - before) / RECIPES
    return [
        name,
        len(layers),
        f"{total:.1f}",
        f"{total / RECIPES / one:.1f}",
        f"{by_products:.2f}",
    ]


def cpu(work) -> float:  # type: ignore[no-untyped-def]
    """Return the CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    pin(1)
    rows = [measured(name) for name in case_names(sys.argv[1:] or ["resnet20-cifar10"])]
    head = ["Case", "Layers", "CPU s for 40", "Float passes a recipe, CPU", "by products"]
    publish("recipes", "Forty recipes on one bench", table(head, rows))
