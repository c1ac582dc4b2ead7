"""Latency of `--target onnxruntime` beside the float model and ONNX Runtime's own int8 model.

    python benchmarks/latency.py [CASE …]

Batch 1, each number of threads in a process pinned to as many cores; the three models run in turn, in
blocks, and each block gives its median. SQNR is measured on evaluation samples.
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
import numpy as np
from _common import (
    answer,
    case_names,
    load_case,
    median,
    ort_session,
    parser,
    pin,
    publish,
    run_model,
    say,
    split,
    sqnr_db,
    table,
    work,
)

BLOCKS, WARMUP_BLOCKS = 15, 2
BLOCK_SECONDS = 0.1
SAMPLES = 250  # for the SQNR
RIVAL = "minmax_u8s8"


def block_ms(session: Any, feed: dict[str, np.ndarray]) -> float:
    """Run for BLOCK_SECONDS; return the median of one call in ms."""
    times: list[float] = []
    end = time.perf_counter() + BLOCK_SECONDS
    while (start := time.perf_counter()) < end:
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def worker(models: dict[str, str], case: str, threads: int) -> dict[str, object]:
    """Return each model's latency in ms: the median over blocks of the medians in a block."""
    pin(threads)
    feed = next(load_case(case).eval_batches(1))
    sessions = {name: ort_session(path, threads) for name, path in models.items()}
    found: dict[str, list[float]] = {name: [] for name in models}
    for block in range(-WARMUP_BLOCKS, BLOCKS):
        for name, session in sessions.items():
            latency = block_ms(session, feed)
            if block >= 0:
                found[name].append(latency)
    return {name: median(values) for name, values in found.items()}


def outputs(case: Any, model: str) -> np.ndarray:
    """Return the first output of the first SAMPLES evaluation samples."""
    batches = case.eval_batches(1, min(SAMPLES, case.eval_size))
    return np.concatenate([o[0] for o in run_model(model, batches, 2)])


def case_rows(name: str) -> list[list[object]]:
    """Quantize a case, measure it on 1 and 2 threads."""
    case = load_case(name)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        say(f"{name}: quantizing")
        rival = Path(folder) / "rival.onnx"
        _rivals.quantize(case.model_path, list(split(case.calib(), 1)), rival, RIVAL)
        ours = _ours.quantize(
            case.model_path, case.calib(), Path(folder) / "ours", target="onnxruntime"
        )
        models = {"float": case.model_path, "calibrant": str(ours), "ONNX Runtime": str(rival)}
        reference = outputs(case, models["float"])
        sqnr = {n: sqnr_db(reference, outputs(case, path)) for n, path in models.items()}
        for threads in (1, 2):
            say(f"{name}: {threads} threads")
            ms = work(sys.argv[0], models=models, case=name, threads=threads).result
            rows.append(
                [
                    name,
                    threads,
                    *(f"{ms[n]:.3f}" for n in models),
                    f"{ms['float'] / ms['calibrant']:.2f}",
                    f"**{ms['ONNX Runtime'] / ms['calibrant']:.2f}**",
                    *(f"{sqnr[n]:.1f}" for n in ("calibrant", "ONNX Runtime")),
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
    publish(
        "latency",
        "Latency of the onnxruntime target, batch 1",
        "Milliseconds a sample; a speed-up above 1 means that calibrant's model is the faster one. The "
        "rival is ONNX Runtime's own QDQ model, uint8 activations, int8 weights, min-max.\n\n"
        + table(
            [
                *("case", "threads", "float ms", "calibrant ms", "ONNX Runtime int8 ms"),
                *("speed-up over float", "speed-up over ONNX Runtime int8"),
                *("calibrant dB", "ONNX Runtime dB"),
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
