"""The attention network that scripts/train_attention.py trained, with its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.models._text import Array

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class TrainedCase:
    """A trained network on disk and its data.

    Args:
        path: The float ONNX model.
        calibration: Samples by input name.
        evaluation: Other samples by input name.
        labels: The right class of each evaluation sample.
    """

    path: Path
    calibration: dict[str, Array]
    evaluation: dict[str, Array]
    labels: Array


def trained_attention() -> TrainedCase:
    """Return the network: inputs `ids` and `mask` (N, length) int64, output `logits` (N, classes)."""
    with np.load(_HERE / "attention_data.npz", allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}

    def part(prefix: str) -> dict[str, Array]:
        return {n: arrays[f"{prefix}_{n}"].astype(np.int64) for n in ("ids", "mask")}

    return TrainedCase(
        _HERE / "attention.onnx", part("calibration"), part("evaluation"), arrays["labels"]
    )
