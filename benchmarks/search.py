"""What a search between candidates costs beside quantizing once.

    python benchmarks/search.py [CASE …]

Each line is a Horizon configuration, in turn with one of a single candidate: as a new process, `calibrant
quantize`, and by `calibrant.quantize` in a process that has done it before. The aims: twelve candidates for the
model take at most 3 times as long as one; a search for each node executes at most half of the nodes, and of their
multiplications, that whole models would have.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import case_names, interleaved, load_case, median, parser, publish, table

import calibrant

REPEATS = 5

GRID = {
    "calibration_type": ["max", "kl"],
    "max_percentile": [1.0, 0.99995],
    "asymmetric": [True, False],
    "per_channel": [True, False],
}
LADDER = {
    "calibration_type": ["max", "kl"],
    "max_percentile": [1.0, 0.99995, 0.9999, 0.9995],
    "num_bin": [1024, 2048],
    "asymmetric": [True, False],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "one candidate": {"activation": {"calibration_type": "max"}},
    "12 for the model, one scale a tensor": {"activation": LADDER},
    "12 for the model, half of them by channel": {"activation": GRID},
    "12 for each node": {"activation": GRID, "layerwise_search": {}},
}


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    rows = []
    for name in case_names(arguments.cases or ["resnet20-cifar10"]):
        rows += _case(name)
    publish(
        "search",
        "Searches between candidates",
        f"Medians of {REPEATS} interleaved repeats after one warm-up: `process` is a new process, `warm` a call in one "
        "that has quantized before. `nodes` and `MACs` are those executed by the search for each node over those of "
        "whole models.\n\n"
        + table(
            [
                *("case", "search", "process s", "over one", "warm s", "over one"),
                *("SQNR, dB", "nodes", "MACs"),
            ],
            rows,
        ),
    )


def _case(name: str) -> list[list[object]]:
    case = load_case(name)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calib.npz"
        np.savez(data, **case.calib())
        commands = {}
        for i, (label, config) in enumerate(CONFIGS.items()):
            recipe = Path(folder) / f"{i}.json"
            recipe.write_text(json.dumps({"model_config": config}))
            commands[label] = [
                str(Path(sys.executable).parent / "calibrant"),
                *("quantize", str(case.model_path), "--data", str(data)),
                *("--recipe", str(recipe), "--out", str(Path(folder) / str(i))),
            ]
        start = partial(subprocess.run, check=True, capture_output=True)
        seconds = interleaved({n: partial(start, c) for n, c in commands.items()}, REPEATS)
        quantize = partial(calibrant.quantize, case.model_path, case.calib())
        recipes = {
            n: calibrant.load_recipe(c[c.index("--recipe") + 1]) for n, c in commands.items()
        }
        warm = interleaved({n: partial(quantize, r) for n, r in recipes.items()}, REPEATS)
        rows: list[list[object]] = []
        for i, label in enumerate(CONFIGS):
            summary = json.loads((Path(folder) / str(i) / "summary.json").read_text())
            quality = [q["sqnr_db"] for q in summary["quality"]["outputs"].values()]
            search = summary["search"]
            shares = ["-", "-"]
            if search and search["nodes_of_full_runs"]:
                shares = [
                    f"{search[f'{what}_run'] / search[f'{what}_of_full_runs']:.1%}"
                    for what in ("nodes", "macs")
                ]
            rows.append(
                [
                    name,
                    label,
                    *_beside_one(seconds, label),
                    *_beside_one(warm, label),
                    f"{np.mean(quality):.1f}",
                    *shares,
                ]
            )
    return rows


def _beside_one(seconds: dict[str, list[float]], label: str) -> list[str]:
    """Return the median seconds of a configuration, and how many times one candidate's they are."""
    taken = median(seconds[label])
    return [f"{taken:.2f}", f"{taken / median(seconds['one candidate']):.2f}"]


if __name__ == "__main__":
    main()
