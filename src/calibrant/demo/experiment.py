"""Quantize the digits network with two settings and measure both on the test digits."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.analysis.evaluate import evaluate
from calibrant.demo import digits
from calibrant.errors import OutputError
from calibrant.graph.load import load, prepare
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.pipeline import quantize
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings

__all__ = ["NAIVE", "Measured", "Outcome", "compare_settings"]

#: One scale for each tensor, symmetric, from the least to the largest value seen; no pass over the model.
NAIVE = Recipe(
    rules=(
        Rule(
            AllNodes(),
            Settings(
                activation=AlgorithmChoice("min-max"),
                activation_symmetric=True,
                weight=AlgorithmChoice("arq"),
                weight_per_channel=False,
            ),
            origin="demo: the naive setting",
        ),
    ),
    bias_correction="off",
    equalize="off",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on the test digits.

    Args:
        name: `float`, `naive` or `default`.
        top1: Share of digits read right.
        wrong: Digits read wrong.
        sqnr_db: SQNR of its outputs against the float model's on calibration samples [dB]; None for
            the float model itself.
        size_bytes: Size of the file.
        file: The model.
        summary: Summary of the quantization; empty for the float model.
    """

    name: str
    top1: float
    wrong: int
    sqnr_db: float | None
    size_bytes: int
    file: Path
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration found.

    Args:
        original: The float model.
        naive: Quantized with `NAIVE`.
        default: Quantized with the default recipe.
        calibration_samples: Images that both quantizations saw.
        test_samples: Images that the models were measured on.
        kernel_spread: In the worst layer, the largest weight of the largest kernel over that of the
            smallest.
        seconds: Wall time of all of it.
    """

    original: Measured
    naive: Measured
    default: Measured
    calibration_samples: int
    test_samples: int
    kernel_spread: float
    seconds: float

    @property
    def models(self) -> tuple[Measured, Measured, Measured]:
        """All three, the float model first."""
        return self.original, self.naive, self.default

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as in `demo.json`; the summaries lie beside the models."""
        models = []
        for m in self.models:
            values = asdict(m) | {"file": m.file.as_posix()}
            del values["summary"]
            models.append(values)
        return {
            "models": models,
            "calibration_samples": self.calibration_samples,
            "test_samples": self.test_samples,
            "kernel_spread": round(self.kernel_spread, 1),
            "seconds": round(self.seconds, 2),
        }


def compare_settings(folder: Path) -> Outcome:
    """Quantize twice, measure three models, and write everything into `folder`.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    start = time.perf_counter()
    calibration, test = digits.calibration(), digits.evaluation()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(digits.MODEL, folder / "float.onnx")
        for name, samples in (("calibration", calibration), ("test", test)):
            np.savez(folder / f"{name}.npz", image=samples.image, labels=samples.labels)
    except OSError as e:
        raise OutputError(f"Cannot write into the folder '{folder}': {e.strerror or e}.") from e

    def measure(name: str, file: Path, summary: dict[str, Any]) -> Measured:
        result = evaluate(file, {"image": test.image, "labels": test.labels}, "top1")
        sqnr = summary["quality"]["outputs"]["logits"]["sqnr_db"] if summary else None
        wrong = round((1 - result.value) * result.samples)
        return Measured(name, result.value, wrong, sqnr, file.stat().st_size, file, summary)

    def quantized(name: str, recipe: Recipe | None) -> Measured:
        result = quantize(digits.MODEL, {"image": calibration.image}, recipe)
        result.save(folder / name)
        return measure(name, folder / name / "deploy.onnx", result.summary)

    outcome = Outcome(
        original=measure("float", folder / "float.onnx", {}),
        naive=quantized("naive", NAIVE),
        default=quantized("default", None),
        calibration_samples=len(calibration.labels),
        test_samples=len(test.labels),
        kernel_spread=_kernel_spread(),
        seconds=time.perf_counter() - start,
    )
    text = json.dumps(outcome.as_dict(), indent=2) + "\n"
    try:
        (folder / "demo.json").write_text(text, encoding="utf-8")
    except OSError as e:
        raise OutputError(f"Cannot write '{folder / 'demo.json'}': {e.strerror or e}.") from e
    return outcome


def _kernel_spread() -> float:
    """Largest over smallest kernel of one layer, batch normalization folded, in the worst layer."""
    model = prepare(load(digits.MODEL))
    fuse_batchnorm(model)
    spreads = []
    for node in model.graph:
        weight = node.inputs[1].const_value if node.op_type == "Conv" and node.inputs[1] else None
        if weight is not None:
            size = np.abs(weight.numpy()).max(axis=(1, 2, 3))  # (out,)
            spreads.append(float(size.max() / size.min()))
    return max(spreads)
