"""CPU time and memory of the default beside NNCF's default, on the cases and on large networks.

    python benchmarks/default_cost.py [--nncf PYTHON] [--repeats N] [NAME …]

A name is that of a case, `resnet50` or `vit-b16` (random weights, 64 images of 224 by 224). Each side is a process of its
own that quantizes several times, from the path of the float model and the samples in memory to the file on disk; the
first call warms up, and the best of the others counts: CPU seconds, of the process and its children, on 2 cores. The sides
take turns. `--nncf` is a Python that has NNCF (`pip install nncf onnxruntime`), without it ours is measured alone.

`plain` is the float model run once on the same samples in ONNX Runtime: what is more in memory is the default's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import _networks
from _common import Worker, answer, load_case, parser, pin, publish, say, table, work

THREADS = 2
CASES = ("kws-dscnn", "resnet20-cifar10", "mobilenetv1-025-imagenet", "yolox-nano-coco")
IMAGES = 64
SIDES = ("calibrant", "nncf", "plain")


def worker(side: str, model: str, data: str, calls: int) -> dict[str, object]:
    """Quantize a model several times; `data` is a file of arrays by input name."""
    import numpy as np

    pin(THREADS)
    with np.load(data) as arrays:
        feeds = {n: np.asarray(arrays[n]) for n in arrays.files}
    run = {"calibrant": _ours, "nncf": _nncf, "plain": _plain}[side]
    seconds = []
    stages: dict[str, float] = {}
    for _ in range(calls):
        with tempfile.TemporaryDirectory() as folder:
            start = _cpu()
            stages = run(model, feeds, Path(folder) / "out") or {}
            seconds.append(_cpu() - start)
    return {"cpu_s": min(seconds[1:] or seconds), "stages": stages}


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _ours(model: str, feeds: dict[str, Any], out: Path) -> dict[str, float]:
    from calibrant import quantize

    result = quantize(model, feeds)
    result.save(out)
    return dict(result.summary["time_s"])


def _nncf(model: str, feeds: dict[str, Any], out: Path) -> None:
    import logging

    import nncf
    import onnx

    logging.disable(logging.INFO)
    count = len(next(iter(feeds.values())))
    items = [{n: x[i : i + 1] for n, x in feeds.items()} for i in range(count)]
    any_device = nncf.TargetDevice.ANY
    done = nncf.quantize(
        onnx.load(model), nncf.Dataset(items), subset_size=count, target_device=any_device
    )
    onnx.save(done, f"{out}.onnx")


def _plain(model: str, feeds: dict[str, Any], _: Path) -> None:
    from _common import ort_session, split

    session = ort_session(model, THREADS)
    names = [i.name for i in session.get_inputs()]
    for batch in split({n: feeds[n] for n in names}, 1):
        session.run(None, batch)


def _prepared(name: str, folder: Path) -> tuple[Path, Path]:
    """Return paths of a model and its data."""
    import numpy as np

    model, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    if name in _networks.NETWORKS:
        _networks.NETWORKS[name](model)
        np.savez(data, **_networks.images(IMAGES))
        return model, data
    case = load_case(name)
    np.savez(data, **case.calib())
    return Path(case.model_path), data


def measured(name: str, nncf: str | None, repeats: int) -> list[object]:
    """Return the row of a model."""
    large = name in _networks.NETWORKS
    calls = 2 if large or name.startswith("yolox") else 4
    runs: dict[str, list[Worker]] = {s: [] for s in SIDES if s != "nncf" or nncf}
    with tempfile.TemporaryDirectory() as folder:
        model, data = _prepared(name, Path(folder))
        for turn in range(repeats):
            for side, found in runs.items():
                say(f"{name}: {side}, run {turn + 1} of {repeats}")
                python = nncf if side == "nncf" and nncf else sys.executable
                given = {"side": side, "model": str(model), "data": str(data), "calls": calls}
                found.append(work(sys.argv[0], python=python, **given))
    best = {s: min(r.result["cpu_s"] for r in found) for s, found in runs.items()}
    peak = {s: max(r.peak_mb for r in found) for s, found in runs.items()}
    ours = min(runs["calibrant"], key=lambda r: r.result["cpu_s"]).result["stages"]
    for stage, seconds in ours.items():
        say(f"    {stage}: {seconds:.2f} s")
    return [
        name,
        f"{best['calibrant']:.2f}",
        f"{best['nncf']:.2f}" if nncf else "-",
        f"{best['calibrant'] / best['nncf']:.2f}" if nncf else "-",
        f"{best['calibrant'] / best['plain']:.1f}",
        f"{peak['calibrant']:.0f}",
        f"{peak['nncf']:.0f}" if nncf else "-",
        f"{peak['calibrant'] - peak['plain']:+.0f}",
    ]


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__)
    arguments.add_argument("--nncf", metavar="PYTHON", help="a Python that has NNCF")
    arguments.add_argument("--repeats", type=int, default=3, help="processes of each side")
    given = arguments.parse_args()
    if given.worker:
        answer(worker(**json.loads(given.worker)))
        return
    names = given.cases or [*CASES, *_networks.NETWORKS]
    rows = [measured(n, given.nncf, given.repeats) for n in names]
    sys.argv = ["PYTHON" if a == given.nncf else a for a in sys.argv]  # where it lies says nothing
    columns = ["model", "CPU s", "NNCF CPU s", "over NNCF", "float passes", "peak MB", "NNCF MB"]
    publish(
        "default_cost",
        "The default beside NNCF's default",
        f"Best of {given.repeats} processes a side, in turn, and of their calls after the first, on {THREADS} cores. `float "
        "passes` is the CPU time over that of the float model on all samples.\n\n"
        + table([*columns, "over plain MB"], rows),
    )


if __name__ == "__main__":
    main()
