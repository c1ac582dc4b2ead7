"""Latency and accuracy in OpenVINO of `--target openvino` beside the float model and NNCF's default.

    python benchmarks/latency_openvino.py --openvino PYTHON [CASE …]

`--openvino` is a Python that has NNCF and OpenVINO (`pip install nncf openvino onnxruntime`). Batch 1, each number of
threads in a process pinned to as many cores; the models run in turn, in blocks, and each block gives its median. SQNR is
that of all outputs together on evaluation samples, in OpenVINO, and of calibrant's file also in ONNX Runtime.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    answer,
    case_names,
    load_case,
    median,
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

BLOCKS, WARMUP_BLOCKS = 21, 3
BLOCK_SECONDS = 0.1
SAMPLES = 200  # for the SQNR
THREADS = (1, 2)


def _opened(path: str, threads: int) -> Any:
    """Compile a model for the CPU: float arithmetic where nothing is quantized, one stream."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(path, "CPU", options)


def nncf_file(case: str, out: str) -> dict[str, object]:
    """Quantize with NNCF's default on all calibration samples; part of a worker."""
    import logging

    import nncf
    import onnx

    logging.disable(logging.INFO)
    given = load_case(case)
    items = list(split(given.calib(), 1))
    done = nncf.quantize(onnx.load(given.model_path), nncf.Dataset(items), subset_size=len(items))
    onnx.save(done, out)
    return {}


def latency_ms(case: str, models: dict[str, str], threads: int) -> dict[str, object]:
    """Return each model's milliseconds: the median over blocks of the medians in a block; part of a worker."""
    pin(threads)
    feed = next(load_case(case).eval_batches(1))
    requests = {n: _opened(path, threads).create_infer_request() for n, path in models.items()}
    found: dict[str, list[float]] = {n: [] for n in models}
    for block in range(-WARMUP_BLOCKS, BLOCKS):
        for name, request in requests.items():
            times: list[float] = []
            end = time.perf_counter() + BLOCK_SECONDS
            while (start := time.perf_counter()) < end:
                request.infer(feed)
                times.append(time.perf_counter() - start)
            if block >= 0:
                found[name].append(1e3 * median(times))
    return {n: median(values) for n, values in found.items()}


def sqnrs_db(case: str, models: dict[str, str]) -> dict[str, object]:
    """Return each model's SQNR in OpenVINO, against the float model there; part of a worker."""
    given = load_case(case)
    answers = {n: _outputs(_opened(path, 2), given) for n, path in models.items()}
    return {n: sqnr_db(answers["float"], y) for n, y in answers.items() if n != "float"}


def _batches(case: Any) -> Any:
    return case.eval_batches(1, min(SAMPLES, case.eval_size))


def _outputs(model: Any, case: Any) -> np.ndarray:
    request = model.create_infer_request()
    ports = range(len(model.outputs))
    rows = []
    for feed in _batches(case):
        found = request.infer(feed)
        rows.append(np.concatenate([np.ravel(found[p]) for p in ports]))
    return np.stack(rows)


def _in_ort(path: str, case: Any) -> np.ndarray:
    return np.stack(
        [np.concatenate([np.ravel(y) for y in o]) for o in run_model(path, _batches(case), 2)]
    )


PARTS = {"nncf": nncf_file, "latency": latency_ms, "sqnr": sqnrs_db}


def case_rows(name: str, python: str) -> list[list[object]]:
    """Quantize a case both ways, measure it on 1 and 2 threads."""
    import _ours

    case = load_case(name)

    def part(what: str, **given: object) -> dict[str, Any]:
        return work(sys.argv[0], python=python, part=what, case=name, **given).result

    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        say(f"{name}: quantizing")
        ours = _ours.quantize(
            case.model_path, case.calib(), Path(folder) / "ours", target="openvino"
        )
        rival = f"{folder}/nncf.onnx"
        part("nncf", out=rival)
        models = {"float": case.model_path, "calibrant": str(ours), "NNCF": rival}
        say(f"{name}: SQNR")
        sqnr = part("sqnr", models=models)
        there = sqnr_db(_in_ort(case.model_path, case), _in_ort(str(ours), case))
        for threads in THREADS:
            say(f"{name}: {threads} threads")
            ms = part("latency", models=models, threads=threads)
            rows.append(
                [
                    name,
                    threads,
                    *(f"{ms[n]:.3f}" for n in models),
                    f"{ms['calibrant'] / ms['float']:.2f}",
                    f"**{ms['calibrant'] / ms['NNCF']:.2f}**",
                    f"{sqnr['calibrant']:.1f}",
                    f"{sqnr['NNCF']:.1f}",
                    f"{there:.1f}",
                ]
            )
    return rows


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__)
    arguments.add_argument("--openvino", metavar="PYTHON", help="a Python that has NNCF, OpenVINO")
    given = arguments.parse_args()
    if given.worker:
        wanted = json.loads(given.worker)
        answer(PARTS[wanted.pop("part")](**wanted))
        return
    if not given.openvino:
        sys.exit("Skipped: --openvino PYTHON is missing, a Python that has NNCF and OpenVINO.")
    rows = [row for n in case_names(given.cases) for row in case_rows(n, given.openvino)]
    sys.argv = ["PYTHON" if a == given.openvino else a for a in sys.argv]
    publish(
        "latency_openvino",
        "Latency and accuracy of the openvino target in OpenVINO, batch 1",
        "Milliseconds a sample in OpenVINO's CPU plugin, float hint f32, one stream; over NNCF, a figure below 1 means that "
        "calibrant's model is the faster one. SQNR of all outputs, in OpenVINO against the float model there.\n\n"
        + table(
            [
                *("case", "threads", "float ms", "calibrant ms", "NNCF ms"),
                *(
                    "over float",
                    "over NNCF",
                    "calibrant dB",
                    "NNCF dB",
                    "calibrant dB in ONNX Runtime",
                ),
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
