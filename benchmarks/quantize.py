"""Wall time and memory of the whole quantization beside ONNX Runtime's quantizer.

    python benchmarks/quantize.py [CASE …]

Every run is a process of its own on 2 threads: `seconds` is the call, from the path of the float model and
the samples in memory to the files on disk; `process` also holds the start of Python, the imports and the
reading of the samples. ONNX Runtime's side includes the pre-processing its documentation asks for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

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
RIVALS = ("minmax", "percentile", "entropy")
BATCH = {"mobilenetv1-025-imagenet": 8}  # others: 32


def worker(case: str, method: str) -> dict[str, object]:
    """Quantize a case once; `ours` or a key of `_rivals.METHODS`."""
    pin(THREADS)
    loaded = load_case(case)
    data = loaded.calib()
    size = BATCH.get(case, 32)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        start = time.perf_counter()
        if method == "ours":
            _ours.quantize(loaded.model_path, data, out, batch_size=size, threads=THREADS)
        else:
            out.mkdir()
            batches = list(split(data, size))
            _rivals.quantize(loaded.model_path, batches, out / "model.onnx", method)
        return {"seconds": time.perf_counter() - start}


def case_rows(case: str) -> list[list[object]]:
    """Run all methods in turn, REPEATS times."""
    runs: dict[str, list[Worker]] = {}
    for turn in range(REPEATS):
        for method in ("ours", *RIVALS):
            say(f"{case}: {method}, run {turn + 1} of {REPEATS}")
            runs.setdefault(method, []).append(work(sys.argv[0], case=case, method=method))
    ours = median([r.result["seconds"] for r in runs["ours"]])
    rows: list[list[object]] = []
    for method, found in runs.items():
        seconds = median([r.result["seconds"] for r in found])
        rows.append(
            [
                case,
                "**calibrant default**" if method == "ours" else f"ONNX Runtime {method}",
                f"{seconds:.2f}",
                "" if method == "ours" else f"{seconds / ours:.1f}",
                f"{median([r.seconds for r in found]):.2f}",
                f"{max(r.peak_mb for r in found):.0f}",
            ]
        )
    return rows


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        answer(worker(**json.loads(arguments.worker)))
        return
    rows = [row for case in case_names(arguments.cases) for row in case_rows(case)]
    columns = ["case", "method", "seconds", "times ours", "process s", "peak MB"]
    publish(
        "quantize",
        "Whole quantization beside ONNX Runtime",
        f"Median of {REPEATS} interleaved runs on {THREADS} threads.\n\n" + table(columns, rows),
    )


if __name__ == "__main__":
    main()
