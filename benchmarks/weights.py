"""What few bits and few levels of weights cost, with and without learning.

    python benchmarks/weights.py [CASE …]

Activations have 8 bits. `ada` learns the rounding in 2000 iterations; `nuq` keeps 16 or 32 levels of the 8-bit
grid. SQNR and agreement are against the float model on up to 512 evaluation samples; `mse` at the same width
stands beside each.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _common import agreement, case_names, load_case, parser, publish, sqnr_db, table

from calibrant import quantize
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.runtime.session import open_session

SAMPLES = 512
ROWS: list[tuple[str, int, dict[str, Any]]] = [
    ("mse", 8, {}),
    ("nuq", 8, {"levels": 32, "rounds": 0}),
    ("nuq", 8, {"levels": 16, "rounds": 0}),
    ("nuq", 8, {"levels": 16, "rounds": 1}),
    ("mse", 4, {}),
    ("ada", 4, {"iterations": 2000}),
]


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    rows = [r for n in case_names(arguments.cases or ["resnet20-cifar10"]) for r in _case(n)]
    publish(
        "weights",
        "Few bits and few levels of weights",
        table(["case", "weight", "bits", "seconds", "SQNR, dB", "agreement"], rows),
    )


def _case(name: str) -> list[list[object]]:
    case = load_case(name)
    feeds = []
    for feed in case.eval_batches(64):
        feeds.append(feed)
        if len(feeds) * 64 >= SAMPLES:
            break
    reference = _run(case.model_path, feeds)
    rows: list[list[object]] = []
    for algorithm, bits, options in ROWS:
        weight = AlgorithmChoice.of(algorithm, options)
        rule = Rule(AllNodes(), Settings(weight=weight, weight_bits=bits))
        start = time.perf_counter()
        result = quantize(case.model_path, case.calib(), Recipe((rule,)))
        seconds = time.perf_counter() - start
        found = _run(result.deploy, feeds)
        rows.append(
            [
                name,
                f"`{weight}`",
                bits,
                f"{seconds:.1f}",
                f"{sqnr_db(reference, found):.1f}",
                f"{agreement(reference, found):.3f}",
            ]
        )
    return rows


def _run(model: Any, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = open_session(model)
    names = [i.name for i in session.get_inputs()]
    return np.concatenate([session.run(None, {n: f[n] for n in names})[0] for f in feeds])


if __name__ == "__main__":
    main()
