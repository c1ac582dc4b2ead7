"""What every benchmark shares: cases, fair timing, worker processes and Markdown.

Cases are folders with a float model and real data. CALIBRANT_CASES names the folder that holds them and
their `load_case.py`; without it, `../shared/cases` beside the checkout is taken. Tables are printed and
written to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("calibrant", "onnxruntime", "onnx", "onnx-ir", "numpy", "numba")

Feeds = dict[str, np.ndarray]


# ------------------------------------------------------------------------------------------------ cases


def cases_folder() -> Path:
    """Return the folder of the cases, or end with the reason why there is none."""
    named = os.environ.get("CALIBRANT_CASES")
    folder = Path(named) if named else ROOT.parent / "shared" / "cases"
    if not (folder / "load_case.py").is_file():
        where = f"CALIBRANT_CASES={named}" if named else f"{folder} (CALIBRANT_CASES is not set)"
        sys.exit(f"Skipped: no cases at {where}; the folder must hold load_case.py.")
    return folder


def load_case(name: str) -> Any:
    """Return the case `name`: `model_path`, `calib()`, `eval_batches(n)`, `metric(outputs)` and more."""
    folder = cases_folder()
    spec = importlib.util.spec_from_file_location("load_case", folder / "load_case.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load_case"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.load(folder / name)


def case_names(wanted: Sequence[str]) -> list[str]:
    """Return the names asked for, or those of all cases; a name that does not exist ends the run."""
    folder = cases_folder()
    known = sorted(p.parent.name for p in folder.glob("*/case.json"))
    for name in wanted:
        if name not in known:
            sys.exit(f"No case '{name}' in {folder}. Known: {', '.join(known)}.")
    return list(wanted) or known


def split(feeds: Feeds, batch_size: int) -> Iterator[Feeds]:
    """Yield batches of at most `batch_size` samples."""
    samples = len(next(iter(feeds.values())))
    for start in range(0, samples, batch_size):
        yield {n: x[start : start + batch_size] for n, x in feeds.items()}


# ------------------------------------------------------------------------------------------- measurement


def pin(threads: int) -> None:
    """Give this process, and every thread it will start, `threads` cores and no more."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        sys.exit(f"Skipped: {threads} cores are asked for and {len(cores)} are there.")
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(threads)


def interleaved(
    actions: Mapping[str, Callable[[], object]], repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Time each action `repeats` times in turn, so that all see the same state of the machine.

    Returns:
        Seconds of each repeat, by the action's name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(-warmups, repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@dataclass(frozen=True)
class Worker:
    """What a worker process answered.

    Args:
        result: The JSON object it printed last.
        peak_mb: Its largest resident set, in MB (10**6 bytes).
        seconds: Its life from start to exit.
    """

    result: dict[str, Any]
    peak_mb: float
    seconds: float


def work(script: str, *, python: str = sys.executable, **arguments: object) -> Worker:
    """Run `script --worker JSON` in a process of its own, with this Python or another, and wait for it.

    Raises:
        SystemExit: It failed; its last lines are printed.
    """
    command = [python, script, "--worker", json.dumps(arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{output[-1500:]}{errors[-1500:]}")
    result = json.loads(output.strip().splitlines()[-1])
    return Worker(result, result.pop("peak_mb"), seconds)


def answer(result: dict[str, Any]) -> None:
    """Print a worker's result with its peak memory; what `work` reads."""
    print("\n" + json.dumps(result | {"peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return the largest resident set of this process so far, in MB (10**6 bytes).

    On Linux, `getrusage` counts what the process had before it became this program, which is what its parent has.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(i.split()[1]) * 1024 / 1e6 for i in lines if i.startswith("VmHWM:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


# ---------------------------------------------------------------------------------------------- accuracy


def sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    """Return the signal to noise ratio of outputs against the float model's, in dB."""
    signal = np.square(reference, dtype=np.float64).sum()
    noise = np.square(reference.astype(np.float64) - value).sum()
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def agreement(reference: np.ndarray, value: np.ndarray) -> float:
    """Return the share of samples whose largest output is the same."""
    n = len(reference)
    same = reference.reshape(n, -1).argmax(1) == value.reshape(n, -1).argmax(1)
    return float(same.mean())


def run_model(path: str | Path, batches: Iterator[Feeds], threads: int) -> list[list[np.ndarray]]:
    """Return the outputs of each batch; 16 bit and 4 bit models too (default ORT optimization)."""
    session = ort_session(path, threads)
    return [session.run(None, feed) for feed in batches]


def ort_session(path: str | Path, threads: int) -> Any:
    """Open a plain ONNX Runtime session on `threads` threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------------------------------------- Markdown


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; numbers are formatted by the caller."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def publish(name: str, title: str, body: str) -> None:
    """Print a result with its versions, machine, date and command, and write it to RESULTS."""
    versions = ", ".join(f"{p} {_version(p)}" for p in PACKAGES)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    text = "\n".join(
        [
            f"# {title}",
            "",
            f"- Command: `{command}`" + (f" at {commit}" if commit else ""),
            f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            f"- Machine: {_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB, {platform.system()}",
            f"- Versions: Python {platform.python_version()}, {versions}",
            "",
            body.strip(),
            "",
        ]
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def _version(package: str) -> str:
    """Return the version of a package; a checkout on PYTHONPATH has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout)"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments all benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases (default: all)")
    parser.add_argument("--worker", metavar="JSON", help=argparse.SUPPRESS)
    return parser


def say(text: str) -> None:
    """Print progress to stderr, where it does not mix with the table."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    features = [
        f for f in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if any(f in x for x in lines)
    ]
    return (names[0] if names else platform.processor()) + f" ({', '.join(features)})"


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
