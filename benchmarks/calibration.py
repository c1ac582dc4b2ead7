"""What a statistics pass costs beside plain float inference of the same batches.

    python benchmarks/calibration.py [CASE …]

Both sides open a session with the same threads and run the same batches, in one process that is pinned to
the given cores; our side also counts every value of every tensor that the default recipe observes, on a
thread of its own (so 1 thread on 2 cores favours it, and 1 thread on 1 core does not). Reading the model
and deciding what to observe is timed apart. Memory is the largest resident set of a process that does one
of the two and nothing else, imports included.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import numpy as np
from _common import (
    answer,
    case_names,
    interleaved,
    load_case,
    median,
    ort_session,
    parser,
    pin,
    publish,
    say,
    split,
    table,
    work,
)
from _ours import Feeds, statistics_pass

REPEATS = 7
SMALL_BATCH, LARGE_BATCH = 32, 8  # samples; large ones have more than 20,000 values
THREADS_AND_CORES = ((1, 1), (1, 2), (2, 2))
MANY = 8  # the long run sees the calibration samples this many times


def batch_size(data: Feeds) -> int:
    """Return the batch size for samples of this size."""
    return LARGE_BATCH if sum(x[0].size for x in data.values()) > 20_000 else SMALL_BATCH


def plain(model: str, batches: list[Feeds], threads: int) -> None:
    """Open a session and run the batches."""
    session = ort_session(model, threads)
    for feed in batches:
        session.run(None, feed)


def worker(case: str, threads: int, cores: int, mode: str, factor: int) -> dict[str, object]:
    """Time both sides (`time`), or run one side once for its memory (`plain`, `ours`)."""
    pin(cores)
    loaded = load_case(case)
    model = loaded.model_path
    data = {n: np.tile(x, (factor, *[1] * (x.ndim - 1))) for n, x in loaded.calib().items()}
    size = batch_size(data)
    batches = list(split(data, size))
    if mode == "plain":
        plain(model, batches, threads)
        return {}
    start = time.perf_counter()
    ours = statistics_pass(model, data, batch_size=size, threads=threads)
    prepare = time.perf_counter() - start
    seen = ours()
    if mode == "ours":
        return {}
    seconds = interleaved(
        {"plain": partial(plain, model, batches, threads), "ours": ours}, REPEATS
    )
    return {
        "seconds": seconds,
        "prepare": prepare,
        "tensors": seen.tensors,
        "values": seen.values,
        "batch": size,
    }


def time_row(case: str, threads: int, cores: int, factor: int) -> list[object]:
    """Return one row of the table of times."""
    say(f"{case}: {threads} threads on {cores} cores, data {factor} times")
    asked = {"case": case, "threads": threads, "cores": cores, "factor": factor}
    found = work(sys.argv[0], mode="time", **asked).result
    ours, inference = found["seconds"]["ours"], found["seconds"]["plain"]
    extra = (median(ours) - median(inference)) / found["values"] * 1e9
    ratios = [a / b for a, b in zip(ours, inference, strict=True)]
    return [
        case,
        threads,
        cores,
        factor,
        found["batch"],
        f"{found['prepare']:.2f}",
        f"{median(inference):.3f}",
        f"{median(ours):.3f}",
        f"{min(ours) / min(inference):.2f}",
        f"**{median(ratios):.2f}**",
        found["tensors"],
        f"{found['values'] / 1e6:.1f}",
        f"{extra:.2f}",
    ]


def memory_row(case: str) -> list[object]:
    """Return one row of the table of memory."""
    say(f"{case}: memory")
    row: list[object] = [case]
    for factor in (1, MANY):
        peaks = [
            work(sys.argv[0], case=case, threads=2, cores=2, mode=mode, factor=factor).peak_mb
            for mode in ("plain", "ours")
        ]
        row += [*(f"{peak:.0f}" for peak in peaks), f"**{peaks[1] - peaks[0]:+.0f}**"]
    return row


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        answer(worker(**json.loads(arguments.worker)))
        return
    names = case_names(arguments.cases)
    times = [
        time_row(case, threads, cores, factor)
        for case in names
        for threads, cores in THREADS_AND_CORES
        for factor in (1, MANY)
    ]
    memory = [memory_row(c) for c in names]
    publish(
        "calibration",
        "Statistics pass beside plain inference",
        f"Wall time of the pass, {REPEATS} interleaved repeats after one warm-up; `data` says how many "
        "times the calibration samples were seen.\n\n"
        + table(
            [
                *(
                    "case",
                    "threads",
                    "cores",
                    "data",
                    "batch",
                    "prepare s",
                    "inference s",
                    "statistics s",
                ),
                *(
                    "ratio of minima",
                    "ratio, median",
                    "tensors",
                    "million values",
                    "extra ns a value",
                ),
            ],
            times,
        )
        + f"\n\nPeak memory of a process on 2 threads in MB, on the data once and {MANY} times (the "
        "samples themselves are in it on both sides).\n\n"
        + table(
            [
                *("case", "inference, once", "statistics, once", "difference"),
                *(f"inference, {MANY} times", f"statistics, {MANY} times", "difference"),
            ],
            memory,
        ),
    )


if __name__ == "__main__":
    main()
