"""Wall time and memory of the whole quantization beside ONNX Runtime's quantizer.

    python benchmarks/quantize.py [CASE …]

Every run is a process of its own on 2 threads that quantizes twice, from the path of the float model and the
samples in memory to the files on disk: `first` holds every import and every start-up cost of the call,
`second` is what one more model costs; `process` is `first` with the start of Python and the reading of the
samples. ONNX Runtime's side includes the pre-processing its documentation asks for, and is given the samples
in batches and one by one, as its examples do.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _ours
import _rivals
from _common import (
    Worker,
    answer,
    case_names,
    load_case,
    median,
    parser,
    pin,
    publish,
    say,
    split,
    table,
    work,
)

REPEATS = 3
THREADS = 2
#: Ours: options of `_ours.quantize`.
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "mse, no search": {"activation": "mse", "search": False},
    "min-max, no search": {"activation": "min-max", "search": False},
}
RIVALS = ("minmax", "percentile", "entropy")
BATCH = {"mobilenetv1-025-imagenet": 8}  # others: 32


def worker(case: str, method: str, size: int) -> dict[str, object]:
    """Quantize a case once in batches of `size`; a key of OURS or of `_rivals.METHODS`."""
    pin(THREADS)
    loaded = load_case(case)
    data = loaded.calib()
    seconds: list[float] = []
    stages: dict[str, float] = {}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            start = time.perf_counter()
            if method in OURS:
                _ours.quantize(
                    loaded.model_path, data, out, batch_size=size, threads=THREADS, **OURS[method]
                )
            else:
                out.mkdir()
                batches = list(split(data, size))
                _rivals.quantize(loaded.model_path, batches, out / "model.onnx", method)
            seconds.append(time.perf_counter() - start)
            if method in OURS:
                stages = json.loads((out / "summary.json").read_text(encoding="utf-8"))["time_s"]
    return {"first": seconds[0], "second": seconds[1], "stages": stages}


def case_runs(case: str) -> dict[tuple[str, int], list[Worker]]:
    """Run all methods in turn, REPEATS times."""
    size = BATCH.get(case, 32)
    methods = [*((m, size) for m in OURS), *((m, n) for m in RIVALS for n in (size, 1))]
    runs: dict[tuple[str, int], list[Worker]] = {m: [] for m in methods}
    for turn in range(REPEATS):
        for method, n in methods:
            say(f"{case}: {method} in batches of {n}, run {turn + 1} of {REPEATS}")
            runs[method, n].append(work(sys.argv[0], case=case, method=method, size=n))
    return runs


def rows_of(case: str, runs: dict[tuple[str, int], list[Worker]]) -> list[list[object]]:
    """Return the rows of one case."""
    rows: list[list[object]] = []
    default = _default(runs)
    for (method, size), found in runs.items():
        first, second = (_median_of(found, key) for key in ("first", "second"))
        process = median([r.seconds - r.result["second"] for r in found])
        rows.append(
            [
                case,
                f"**calibrant {method}**" if method in OURS else f"ONNX Runtime {method}",
                size,
                f"{process:.2f}",
                f"{first:.2f}",
                f"{second:.2f}",
                f"{first / _median_of(default, 'first'):.2f}",
                f"{second / _median_of(default, 'second'):.2f}",
                f"{max(r.peak_mb for r in found):.0f}",
            ]
        )
    return rows


def _median_of(runs: list[Worker], key: str) -> float:
    return median([r.result[key] for r in runs])


def _default(runs: dict[tuple[str, int], list[Worker]]) -> list[Worker]:
    return next(found for (method, _), found in runs.items() if method == "default")


def stages_of(case: str, runs: dict[tuple[str, int], list[Worker]]) -> list[list[object]]:
    """Return where the default's time went: the medians of each stage, in order."""
    stages = [r.result["stages"] for r in _default(runs)]
    return [[case, name, f"{median([s[name] for s in stages]):.3f}"] for name in stages[0]]


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        answer(worker(**json.loads(arguments.worker)))
        return
    runs = {case: case_runs(case) for case in case_names(arguments.cases)}
    rows = [row for case, found in runs.items() for row in rows_of(case, found)]
    columns = ["case", "method", "batch", "process s", "first s", "second s"]
    columns += ["first / default", "second / default", "peak MB"]
    stages = [row for case, found in runs.items() for row in stages_of(case, found)]
    publish(
        "quantize",
        "Whole quantization beside ONNX Runtime",
        f"Median of {REPEATS} interleaved runs on {THREADS} threads.\n\n"
        + table(columns, rows)
        + "\n\nWhere the second call of the default spends its time.\n\n"
        + table(["case", "stage", "seconds"], stages),
    )


if __name__ == "__main__":
    main()
