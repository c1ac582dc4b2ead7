"""Calibrate from data of ten times the memory limit: one process, and Ray workers on this machine.

    python benchmarks/scale.py [--limit MEGABYTES] [--workers N …]

Writes samples of ten times the limit into a temporary folder, one file for 64 samples of 3 x 224 x 224, and looks at them with a
network of one strided convolution, so that reading and counting are what is timed. Each run is a process of its own. What is
measured of every process that saw data: its peak resident memory, what of that it had before the data, and its CPU time. Statistics of all runs
are saved and compared byte by byte. What many shards cost is reckoned from one shard's bytes and the time of one merge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _common import peak_mb, publish, say, table

SHAPE = (3, 224, 224)
SAMPLES = 64  # of a file
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 224, 224] image) => (float[N, 8, 56, 56] y)
{ c = Conv <kernel_shape = [4, 4], strides = [4, 4]> (image, w)
  y = Relu(c) }
"""


def model() -> onnx.ModelProto:
    """Return the network."""
    made = onnx.parser.parse_model(MODEL)
    weight = np.random.default_rng(0).normal(0, 0.1, (8, 3, 4, 4)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return made


def write(folder: Path, megabytes: float) -> int:
    """Write samples of so many megabytes, and return how many there are."""
    block = np.random.default_rng(1).standard_normal((SAMPLES, *SHAPE), dtype=np.float32)
    files = max(2, round(megabytes * 1e6 / block.nbytes))
    for i in range(files):
        np.save(folder / f"{i:05d}.npy", block * np.float32(1 + i / files))
    return files * SAMPLES


def used() -> tuple[int, float, float]:
    """Return this process, its peak resident memory so far [MB], and its CPU time so far [s]."""
    time.sleep(0.2)  # so that each worker is asked
    own = resource.getrusage(resource.RUSAGE_SELF)
    return os.getpid(), peak_mb(), own.ru_utime + own.ru_stime


def each(workers: int) -> dict[int, tuple[float, float]]:
    """Return peak resident memory [MB] and CPU time [s] of each process that looks at data."""
    if workers < 1:
        asked = [used()]
    else:
        import ray

        ask = ray.remote(used)
        asked = ray.get([ask.remote() for _ in range(4 * workers)])
    return {pid: (peak, cpu) for pid, peak, cpu in asked}


def run(folder: str, workers: int, out: str) -> dict[str, Any]:
    """Look at all data; 0 workers are this process alone."""
    import calibrant

    address = f"local:{workers}" if workers else None
    first = np.load(next(iter(sorted(Path(folder).glob("*.npy")))), mmap_mode="r")[:4]
    # Imports, and loops that are compiled: a sample for each worker.
    calibrant.observe(model(), np.array(first), ray=address, batch_size=1)
    before, own = each(workers), time.process_time()
    start = time.perf_counter()
    found = calibrant.observe(model(), folder, ray=address)
    seconds = time.perf_counter() - start
    merging = time.process_time() - own if workers else 0.0
    after = each(workers)
    started = min(cpu for _, cpu in before.values())
    spent = [cpu - before.get(pid, (0.0, started))[1] for pid, (_, cpu) in after.items()]
    found.save(out)
    sent = pickle.dumps(dict(found.tensors))  # as workers send it, and never read from a file
    start = time.perf_counter()
    other = pickle.loads(sent)
    for name, stats in found.tensors.items():
        stats.merge(other[name])
    merge = time.perf_counter() - start
    return {
        "seconds": seconds,
        "cpu": max(spent),
        "merging": merging,
        "before": max(peak for peak, _ in before.values()),
        "peak": max(peak for peak, _ in after.values()),
        "merge": merge,
        "bytes": len(sent),
    }


def main() -> None:
    """Run all, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=float, default=300, help="memory limit [MB]")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2], help="of a local Ray cluster"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run(**json.loads(args.worker))))
        return
    rows, found = [], {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="calibrant-scale-") as place:
        folder = Path(place) / "data"
        folder.mkdir()
        say(f"writing {10 * args.limit:g} MB")
        samples = write(folder, 10 * args.limit)
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        for workers in (0, *args.workers):
            say(f"{workers} workers")
            out = Path(place) / f"{workers}.stats"
            told = {"folder": str(folder), "workers": workers, "out": str(out)}
            done = subprocess.run(
                [sys.executable, __file__, "--worker", json.dumps(told)],
                check=True,
                capture_output=True,
                text=True,
            )
            found[workers] = json.loads(done.stdout.splitlines()[-1])
            found[workers]["digest"] = hashlib.sha256(out.read_bytes()).hexdigest()
            say(str(found[workers]))
    for workers, f in found.items():
        own = f["peak"] - f["before"]
        rows.append(
            [
                f"{workers} Ray worker{'s' * (workers > 1)}" if workers else "this process",
                f"{f['seconds']:.1f}",
                f"{size / f['seconds']:.0f}",
                f"{f['cpu']:.1f}",
                f"{f['merging']:.1f}",
                f"{f['peak']:.0f}",
                f"{own:.0f}",
                "yes" if own < args.limit else "no",
                f"{max(workers, 1) * f['bytes'] / 1e6:.2f}",
            ]
        )
    same = len({f["digest"] for f in found.values()}) == 1
    one = found[0]
    columns = [
        "who looks",
        "s",
        "MB/s",
        "CPU s, busiest",
        "CPU s, merging",
        "peak MB",
        "of that for data",
        "below the limit",
        "MB merged, at most",
    ]
    many = [
        [n, f"{n * one['bytes'] / 1e6:.0f}", f"{n * one['merge']:.1f}"] for n in (10, 100, 1000)
    ]
    body = "\n\n".join(
        [
            f"{samples} samples, {size:.0f} MB of float32 in files, a memory limit of {args.limit:g} MB for the data of each process: "
            f"{size / args.limit:.1f} times the limit. Peak resident memory is that of the largest process that saw data; `of that "
            "for data` is what it grew by over what imports and a first small run took. Processes that waited or ran on this machine "
            f"before it began: {load:.1f}, of {os.cpu_count()} cores; where there are more of these than cores, times are those of a "
            "busy machine, and workers gain nothing. CPU time does not depend on that: what the busiest process that looks takes, and what "
            "the first process takes to hand out and merge, are the time on a machine with a free core for each.",
            table(columns, rows),
            f"The saved statistics of all runs are {'the same, byte for byte' if same else 'NOT the same'}.",
            f"On paper, for more shards: a shard sends its statistics, at most the {one['bytes'] / 1e6:.2f} MB that all data has here. "
            "They are counts by bit pattern, whose number has a limit whatever the data is, so a smaller shard sends less, and no "
            f"larger one much more. Reading and merging them takes {1e3 * one['merge']:.1f} ms. One process does so as shards come in, "
            "and holds one result and the shard that comes.",
            table(["shards", "MB merged", "s to merge"], many),
        ]
    )
    publish("scale", "Data of ten times the memory limit", body)
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
