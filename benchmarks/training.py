"""What training with quantizers wins back: resnet20-cifar10 at three widths, without labels.

    python benchmarks/training.py [--minutes 10 | --epochs N] [--seeds 3] [--images 10000] [--only W4A8 …]

Ranges are calibrated on `calib.npz`; `fit` trains on the images of `train.npz` to answer as the float model does. Its
checkpoint is chosen on 500 images of `train.npz` that are not trained on (SQNR of the deployed model), so the test
images decide nothing. Scores are those of the deployed file in ONNX Runtime on the test images.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from _common import load_case, median, parser, pin, publish, say, table

from calibrant import AllNodes, Layer, Recipe, Rule, Settings
from calibrant.qat import fit, prepare
from calibrant.runtime.measure import run

CASE = "resnet20-cifar10"
WIDTHS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
RATES = {"W8A8": 2e-4, "W4A8": 1e-3, "W4A4": 1e-3}
THREADS = 2
BATCH = 64
#: Steps of each network that are timed.
TURNS = 12


def recipe_of(name: str, first: str, last: str) -> Recipe:
    """Return the recipe of a row; at W4A4 the first and the last layer have 8 bits."""
    weight, activation = WIDTHS[name]
    rules = [Rule(AllNodes(), Settings(weight_bits=weight, activation_bits=activation))]
    if name == "W4A4":
        eight = Settings(weight_bits=8, activation_bits=8)
        rules += [Rule(Layer(n), eight) for n in (first, last)]
    return Recipe(rules=tuple(rules), target="layers-only")


def answers(model: Any, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return the logits of the images (images, classes)."""
    found = run(model, batches, integers=False)
    return np.concatenate([next(iter(f.values())) for f in found])


def step_ratio(qat: Any, images: np.ndarray) -> float:
    """Return the time of a step of the quantized network over that of the float network, turn by turn.

    Both have the float network's answers at hand, as `fit` has them.
    """
    import copy

    import torch

    x = torch.from_numpy(images[:BATCH])
    with torch.no_grad():
        wanted = qat.teacher(x)
    steps, times = [], ([], [])
    for module in (copy.deepcopy(m).train() for m in (qat.module, qat.teacher)):
        module.requires_grad_(True)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6)
        steps.append((module, optimizer))
    for _ in range(TURNS):
        for (module, optimizer), taken in zip(steps, times, strict=True):
            start = time.process_time()
            loss = (module(x) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken.append(time.process_time() - start)
    quantized, floating = (median(t[2:]) for t in times)
    return quantized / floating


def measured(case: Any, name: str, seed: int, asked: Any) -> list[object]:
    """Train once; return a row of the table."""
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    layers = case_layers(case)
    recipe = recipe_of(name, layers[0], layers[-1])
    qat = prepare(case.model_path, case.calib(), recipe, threads=THREADS)
    images = case.train()[0]
    batches = list(case.eval_batches(200, limit=asked.images))
    labels = case.references["labels"][: asked.images]
    budget = {"epochs": asked.epochs} if asked.epochs else {"minutes": asked.minutes}
    ratio = step_ratio(qat, images["image"])
    fitted = fit(qat, images, lr=RATES[name], batch_size=BATCH, seed=seed, **budget)
    trained = fitted.result if fitted.better else qat.convert()
    truth = answers(case.model_path, batches).argmax(axis=1)
    before, after = (answers(m.deploy, batches).argmax(axis=1) for m in (qat.calibrated, trained))
    held = qat.agreement(trained, batches[:5])
    return [
        name,
        seed,
        f"{(truth == labels).mean():.4f}",
        f"{(before == labels).mean():.4f}",
        f"{(after == labels).mean():.4f}",
        f"{(before == truth).mean():.1%}",
        f"{(after == truth).mean():.1%}",
        f"{held.top1:.1%}, {held.typical_db:.1f} dB",
        f"{fitted.result.summary['training']['epochs']:.2f}",
        f"{fitted.seconds:.0f}",
        f"{ratio:.2f}",
    ]


def case_layers(case: Any) -> list[str]:
    """Return the names of the layers, in order."""
    import onnx

    graph = onnx.load(case.model_path).graph
    return [n.name for n in graph.node if n.op_type in ("Conv", "Gemm")]


def main() -> None:
    """Print and write the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--epochs", type=float)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--images", type=int, default=10_000)
    arguments.add_argument("--only", nargs="*", default=list(WIDTHS), choices=list(WIDTHS))
    asked = arguments.parse_args()
    pin(THREADS)
    case, rows = load_case(CASE), []
    for name in asked.only:
        for seed in range(asked.seeds):
            rows.append(measured(case, name, seed, asked))
            say(" | ".join(map(str, rows[-1])))
    head = ["Widths", "Seed", "Float", "Calibrated", "Trained"]
    head += ["As float, calibrated", "As float, trained", "torch as ONNX Runtime"]
    head += ["Epochs", "Seconds", "Step over float step"]
    load = f"Load of the machine when the table was written: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    publish("training", "Training with quantizers", f"{table(head, rows)}\n\n{load}")


if __name__ == "__main__":
    main()
