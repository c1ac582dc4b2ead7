"""What training with quantizers wins back: resnet20-cifar10 at four widths, without labels.

    python benchmarks/training.py                                10 minutes a run on 2 cores, 3 seeds: 2 hours
    python benchmarks/training.py --epochs 1 --seeds 1           a look: 15 minutes
    python benchmarks/training.py --jobs 8                       16 cores: 8 runs at once, each on 2 cores of its own
    python benchmarks/training.py --jobs 12 --threads 1 --device cuda --epochs 12 --rows rows.jsonl     16 cores and a GPU
    python benchmarks/training.py --only W4A4 --seed 2 --rows rows.jsonl     one run, one line of JSON added to a file
    python benchmarks/training.py --table rows.jsonl             the table of runs that were done one by one
    python benchmarks/training.py --only W4A8 --seed 0 --minutes 4 --brevitas PYTHON     the same with Brevitas, of another environment

It needs src/ and the folder of cases (CALIBRANT_CASES), and torch. Ranges are calibrated on `calib.npz`; `fit` trains on the
images of `train.npz`, shifted and turned at random, to answer as the float model does. Its state is chosen on 512 images of
`train.npz` that are not trained on (SQNR of the deployed model), so the test images decide nothing. Scores are those of the
deployed file in ONNX Runtime on the test images. The budget is that of training with its looks at the deployed model; calibration and the test
images come on top, 1 to 3 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _common import load_case, median, publish, say, table

from calibrant import AllNodes, Layer, Recipe, Rule, Settings
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import Runtime

CASE = "resnet20-cifar10"
#: Row -> bits of weights, of activations, of the first and the last layer.
WIDTHS = {
    "W8A8": (8, 8, 8),
    "W4A8": (4, 8, 4),
    "W4A4": (4, 4, 8),
    "W4A4-all": (4, 4, 4),
}
BATCH = 64
#: Images that the module of torch and the deployed file are compared on.
COMPARED = 1000
#: Steps of each network that are timed.
TURNS = 12
#: Widths that Brevitas trains here, and a rate for each: with 1e-3, which ours learns with, it loses what calibration had.
BREVITAS = {"W8A8": 3e-5, "W4A8": 1e-4, "W4A4-all": 1e-4}
HEAD = {
    "tool": "Tool",
    "widths": "Widths",
    "seed": "Seed",
    "float": "Float",
    "calibrated": "Calibrated",
    "trained": "Trained",
    "same_calibrated": "As float, calibrated",
    "same_trained": "As float, trained",
    "torch": "torch as ONNX Runtime",
    "epochs": "Epochs",
    "seconds": "Seconds",
    "rate": "Rate",
    "ratio": "Step over float step, CPU",
    "better": "Kept",
}


def recipe_of(name: str, first: str, last: str) -> Recipe:
    """Return the recipe of a row."""
    weight, activation, ends = WIDTHS[name]
    rules = [Rule(AllNodes(), Settings(weight_bits=weight, activation_bits=activation))]
    if ends != weight:
        eight = Settings(weight_bits=8, activation_bits=8)
        rules += [Rule(Layer(n), eight) for n in (first, last)]
    return Recipe(rules=tuple(rules), target="layers-only")


def answers(model: Any, batches: list[dict[str, np.ndarray]], threads: int = 1) -> np.ndarray:
    """Return the logits of the images (images, classes)."""
    found = run(model, batches, integers=False, runtime=Runtime("cpu", threads))
    return np.concatenate([next(iter(f.values())) for f in found])


def case_layers(case: Any) -> list[str]:
    """Return the names of the layers, in order."""
    import onnx

    graph = onnx.load(case.model_path).graph
    return [n.name for n in graph.node if n.op_type in ("Conv", "Gemm")]


def shifted(inputs: Any, extras: Any, generator: np.random.Generator) -> tuple[Any, Any]:
    """Move each image by up to 4 pixels, edges mirrored, and turn half of them left to right."""
    from _moved import moved

    (x,) = inputs
    return (moved(x, generator),), extras


def step_ratio(qat: Any, images: np.ndarray, device: str) -> float:
    """Return the time of a step of the quantized network over that of the float network, turn by turn.

    Both have the float network's answers at hand, as `fit` has them. On the CPU it is time of the CPU.
    """
    import copy

    import torch

    def now() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    x = torch.from_numpy(images[:BATCH]).to(device)
    steps: list[tuple[Any, Any]] = []
    times: tuple[list[float], list[float]] = ([], [])
    for module in (copy.deepcopy(m).to(device).train() for m in (qat.module, qat.teacher)):
        module.requires_grad_(True)
        steps.append((module, torch.optim.AdamW(module.parameters(), lr=1e-6)))
    with torch.no_grad():
        wanted = steps[1][0](x)
    for _ in range(TURNS):
        for (module, optimizer), taken in zip(steps, times, strict=True):
            start = now()
            loss = (module(x) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken.append(now() - start)
    quantized, floating = (median(t[2:]) for t in times)
    return quantized / floating


def measured(name: str, seed: int, asked: argparse.Namespace) -> dict[str, object]:
    """Train once; return a row of the table."""
    import torch

    from calibrant.qat import fit, prepare

    torch.set_num_threads(asked.threads)
    torch.manual_seed(seed)
    case = load_case(CASE)
    layers = case_layers(case)
    recipe = recipe_of(name, layers[0], layers[-1])
    qat = prepare(case.model_path, case.calib(), recipe, threads=asked.threads)
    images = case.train()[0]
    ratio = step_ratio(qat, images["image"], "cpu")
    budget = {"epochs": asked.epochs} if asked.epochs else {"minutes": asked.minutes}
    fitted = fit(
        qat,
        images,
        lr=asked.lr,
        batch_size=BATCH,
        augment=None if asked.same_images else shifted,
        seed=seed,
        device=asked.device,
        **budget,
    )
    trained = fitted.result if fitted.better else qat.convert()
    batches = list(case.eval_batches(200, limit=asked.images))
    labels = case.references["labels"][: asked.images]
    models = (case.model_path, qat.calibrated.deploy, trained.deploy)
    truth, before, after = (answers(m, batches, asked.threads).argmax(axis=1) for m in models)
    held = qat.agreement(trained, batches[: COMPARED // 200])
    said = fitted.result.summary["training"]
    return {
        "tool": "calibrant",
        "widths": name,
        "seed": seed,
        "float": f"{(truth == labels).mean():.4f}",
        "calibrated": f"{(before == labels).mean():.4f}",
        "trained": f"{(after == labels).mean():.4f}",
        "same_calibrated": f"{(before == truth).mean():.1%}",
        "same_trained": f"{(after == truth).mean():.1%}",
        "torch": f"{held.top1:.1%}, {held.typical_db:.1f} dB",
        "epochs": f"{said['epochs']:.2f}",
        "seconds": f"{fitted.seconds:.0f}",
        "rate": f"{said['rate']:.2g}",
        "ratio": f"{ratio:.2f}",
        "better": "trained" if fitted.better else "calibrated",
        "looks": [round(c.score, 2) for c in fitted.checks],
        "ratio_there": ratio
        if asked.device == "cpu"
        else step_ratio(qat, images["image"], asked.device),
        "device": asked.device,
        "threads": asked.threads,
    }


def by_brevitas(name: str, seed: int, asked: argparse.Namespace) -> dict[str, object]:
    """Train once with Brevitas, as long, on the same images; return a row of the table."""
    case = load_case(CASE)
    weight, activation, _ = WIDTHS[name]
    rate = asked.lr or BREVITAS[name]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data.npz"), Path(folder, "trained.onnx")
        np.savez(data, calib=case.calib()["image"], train=case.train()[0]["image"])
        said = {
            "--model": case.model_path,
            "--data": data,
            "--out": out,
            "--weight-bits": weight,
            "--activation-bits": activation,
            "--minutes": asked.minutes,
            "--lr": rate,
            "--seed": seed,
            "--threads": asked.threads,
        }
        script = str(Path(__file__).with_name("_brevitas.py"))
        command = [asked.brevitas, script, *(str(x) for item in said.items() for x in item)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"Brevitas failed:\n{done.stderr[-2000:]}")
        took = json.loads(done.stdout.strip().splitlines()[-1])
        batches = list(case.eval_batches(200, limit=asked.images))
        labels = case.references["labels"][: asked.images]
        truth, after = (
            answers(m, batches, asked.threads).argmax(axis=1) for m in (case.model_path, out)
        )
    return dict.fromkeys(HEAD, "-") | {
        "tool": "Brevitas",
        "widths": name,
        "seed": seed,
        "float": f"{(truth == labels).mean():.4f}",
        "trained": f"{(after == labels).mean():.4f}",
        "same_trained": f"{(after == truth).mean():.1%}",
        "epochs": f"{took['epochs']:.2f}",
        "seconds": f"{took['seconds']:.0f}",
        "rate": f"{rate:.2g}",
        "device": "cpu",
        "threads": asked.threads,
    }


def side_by_side(asked: argparse.Namespace) -> list[dict[str, object]]:
    """Do the runs, `jobs` at once, each in a process with cores of its own."""
    runs = [(name, seed) for name in asked.only for seed in range(asked.seeds)]
    free = list(range(asked.jobs))

    def one(what: tuple[str, int]) -> dict[str, object]:
        name, seed = what
        slot = free.pop()
        command = [sys.executable, __file__, "--only", name, "--seed", str(seed)]
        command += ["--slot", str(slot), "--threads", str(asked.threads), "--device", asked.device]
        command += ["--images", str(asked.images)]
        command += (
            ["--epochs", str(asked.epochs)] if asked.epochs else ["--minutes", str(asked.minutes)]
        )
        command += ["--lr", str(asked.lr)] if asked.lr else []
        command += ["--same-images"] if asked.same_images else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        free.append(slot)
        if done.returncode != 0:
            say(f"{name}, seed {seed} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
            return {}
        row: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
        keep(row, asked.rows)
        return row

    with ThreadPoolExecutor(asked.jobs) as pool:
        return [row for row in pool.map(one, runs) if row]


def keep(row: dict[str, object], rows: Path | None) -> None:
    """Tell a row, and add it to the file of rows."""
    line = json.dumps(row)
    say(line)
    if rows is not None:
        with rows.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def pin(slot: int, threads: int) -> None:
    """Give this process `threads` cores; those of another slot are others, while there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= threads:
        first = slot * threads % (len(cores) - threads + 1) if len(cores) > threads else 0
        os.sched_setaffinity(0, cores[first : first + threads])
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(threads)


def write(rows: list[dict[str, object]]) -> None:
    """Print and write the table."""
    order = list(WIDTHS)
    rows = sorted(
        rows, key=lambda r: (str(r["tool"]), order.index(str(r["widths"])), int(str(r["seed"])))
    )
    cells = [[r[k] for k in HEAD] for r in rows]
    devices = ", ".join(sorted({f"{r['device']}, {r['threads']} threads" for r in rows}))
    note = (
        "Trained to answer as the float network: the float network itself, trained as long with the same loss, stays as it is, "
        "since that loss is 0 for it."
    )
    publish(
        "training",
        "Training with quantizers",
        f"{table(list(HEAD.values()), cells)}\n\n{note} Runs on {devices}.",
    )


def options() -> argparse.Namespace:
    """Read the command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument(
        "--minutes", type=float, default=10.0, help="wall time of a run (default: 10)"
    )
    found.add_argument("--epochs", type=float, help="epochs of a run, in the place of minutes")
    found.add_argument("--seeds", type=int, default=3, help="runs of each width (default: 3)")
    found.add_argument("--seed", type=int, help="one run with this seed, in this process")
    found.add_argument("--only", nargs="*", default=list(WIDTHS), choices=list(WIDTHS))
    found.add_argument("--lr", type=float, help="largest rate (default: what suits the widths)")
    found.add_argument(
        "--same-images",
        action="store_true",
        help="show images as they are, not shifted and turned",
    )
    found.add_argument("--images", type=int, default=10_000, help="test images (default: 10000)")
    found.add_argument("--threads", type=int, default=2, help="threads of a run (default: 2)")
    found.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    found.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1)")
    found.add_argument(
        "--rows", type=Path, metavar="FILE", help="add each row to this file, as JSON"
    )
    found.add_argument("--table", type=Path, metavar="FILE", help="write the table of such a file")
    found.add_argument(
        "--brevitas",
        metavar="PYTHON",
        help="train with Brevitas, of this environment: torch and torchvision for the CPU, brevitas, onnx2torch, onnx, onnxscript",
    )
    found.add_argument("--slot", type=int, default=0, help=argparse.SUPPRESS)
    return found.parse_args()


def main() -> None:
    """Train, or write the table of what was trained."""
    asked = options()
    if asked.brevitas and (asked.seed is None or not {*asked.only} <= BREVITAS.keys()):
        raise SystemExit(f"--brevitas takes --seed, and --only of {', '.join(BREVITAS)}.")
    if asked.table is not None:
        write([json.loads(line) for line in asked.table.read_text(encoding="utf-8").splitlines()])
        return
    if asked.seed is None:
        write(side_by_side(asked))
        return
    pin(asked.slot, asked.threads)
    for name in asked.only:
        row = (by_brevitas if asked.brevitas else measured)(name, asked.seed, asked)
        keep(row, asked.rows)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
