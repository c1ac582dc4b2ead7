"""Tell the outcome of the demonstration to someone who sees calibrant for the first time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from calibrant.demo.experiment import Measured, Outcome

__all__ = ["sentences", "show"]

_LABELS = {
    "float": "float32, as trained",
    "naive": "int8, naive",
    "default": "int8, calibrant's default",
}


def show(outcome: Outcome, console: Console | None = None) -> None:
    """Print a table, what it means, and what to do next."""
    console = console or Console(highlight=False)
    table = Table(title=f"Reading {outcome.test_samples} handwritten digits", title_justify="left")
    table.add_column("model")
    for heading in ("read right", "wrong", "output SQNR", "file"):
        table.add_column(heading, justify="right")
    for model in outcome.models:
        table.add_row(*_cells(model), style="bold" if model is outcome.default else "")
    console.print()
    console.print(table)
    console.print()
    for sentence in sentences(outcome):
        console.print(sentence, markup=False)
        console.print()


def _cells(m: Measured) -> tuple[str, ...]:
    sqnr = "" if m.sqnr_db is None else f"{m.sqnr_db:.1f} dB"
    return _LABELS[m.name], f"{m.top1:.1%}", str(m.wrong), sqnr, f"{m.size_bytes / 1000:.0f} kB"


def sentences(outcome: Outcome) -> Iterator[str]:
    """Yield paragraphs of plain text."""
    naive, default = outcome.naive, outcome.default
    yield (
        "A small network was turned from 32 bit floats into 8 bit integers twice, with the same "
        f"{outcome.calibration_samples} images to learn the ranges of its values from, and no training. "
        f"The digits above are others. All of it took {outcome.seconds:.1f} s."
    )
    lost = 100 * (outcome.original.top1 - naive.top1)
    yield (
        f"The naive setting loses {lost:.0f} points of accuracy. It gives each weight tensor one scale, and in "
        f"this network the largest kernel of a layer is {outcome.kernel_spread:.0f} times the smallest: at a "
        "step that fits the large ones, the small ones round to zero. (SQNR is how far the outputs stand above "
        "the error that quantization adds: at 20 dB the error is a tenth of the output, at 0 dB it is as large.)"
    )
    kept = 100 * (outcome.original.top1 - default.top1)
    change = "nothing" if abs(kept) < 0.05 else f"{kept:.1f} points"
    yield f"calibrant's default loses {change}. " + _what_was_done(default.summary)
    folder = default.file.parent.parent
    yield (
        f"{default.file} is a standard ONNX file that ONNX Runtime and OpenVINO run; "
        f"summary.json and plan.json beside it say what was decided and why. All results: {folder}/"
    )
    yield "Your own model:  calibrant quantize model.onnx --data samples.npz --out results/"


def _what_was_done(summary: dict[str, Any]) -> str:
    """Say what the default did, from its summary; what it left out is not mentioned."""
    done = ["gives every output channel a scale of its own"]
    passes = summary["passes"]
    if pairs := len(passes["equalized"]):
        done.append(f"rescales the channels of {_count(pairs, 'tensor')} so that they are alike")
    if corrected := sum(c["kept"] for c in passes["bias_corrected"]):
        done.append(
            f"corrects the biases of {_count(corrected, 'layer')} for the mean error of rounding"
        )
    text = done[0] if len(done) == 1 else ", ".join(done[:-1]) + " and " + done[-1]
    tried = [d["score"] for d in summary["decisions"]]
    final = summary["quality"]["outputs"]["logits"]["sqnr_db"]
    if not tried:
        return f"It {text}."
    return (
        f"It {text}. It found that out by building and measuring {len(tried)} candidates on the calibration "
        f"images: the worst of them reached {min(tried):.1f} dB, the model it wrote {final:.1f} dB."
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
