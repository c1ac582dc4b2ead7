"""Cross entropy of the first output with an array `labels`.

| Output | Labels |
|---|---|
| (samples, classes), further axes of length 1 | (samples,), further axes of length 1: the class of each |
| (samples, classes, …) or (samples, …, classes) | (samples, …): the class of each position |
| any of them | of the same shape: the share of each class |

An output behind a Softmax holds probabilities; their logarithm stands for the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.errors import DataError

__all__ = ["Labels", "check_labels"]

NAME = "labels"

_MISSING = "The loss 'labels' needs an array 'labels' beside the inputs, with a row for each sample; 'distill' needs none."


class Labels:
    """The loss.

    Args:
        probabilities: The output holds probabilities, its last axis is that of the classes.
    """

    def __init__(self, *, probabilities: bool = False) -> None:
        """Keep what the output is."""
        self.probabilities = probabilities

    def __call__(
        self,
        outputs: tuple[Tensor, ...],
        wanted: tuple[Tensor, ...],
        extras: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the mean over samples and positions.

        Raises:
            DataError: There are no labels, they do not fit the output, or one names a class that there is not.
        """
        if NAME not in extras:
            raise DataError(_MISSING)
        x, labels = outputs[0].float(), extras[NAME]
        if self.probabilities:
            x = torch.log(x.clamp(min=1e-8))
        logits, classes = _fitting(x, labels, last=self.probabilities)
        if not classes.is_floating_point():
            _check_range(
                int(classes.min()) if classes.numel() else 0,
                int(classes.max()) if classes.numel() else 0,
                logits.shape[1],
            )
        return F.cross_entropy(logits, classes)


def _fitting(x: Tensor, labels: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
    """Return logits with the classes on axis 1, and labels as cross entropy takes them."""
    n = len(x) if x.ndim else 0
    if labels.shape == x.shape and labels.is_floating_point() and x.ndim > 1:
        return (x.movedim(-1, 1), labels.movedim(-1, 1)) if last else (x, labels)
    if n and labels.numel() == n == len(labels) and x.ndim > 1 and x.numel() == n * x.shape[1]:
        return x.reshape(n, -1), labels.reshape(n).long()
    if x.ndim > 2 and labels.shape == x.shape[:-1] and (last or labels.shape != _positions(x)):
        return x.movedim(-1, 1), labels.long()
    if x.ndim > 2 and labels.shape == _positions(x):
        return x, labels.long()
    raise DataError(
        f"Labels of shape {tuple(labels.shape)} do not fit the first output, {tuple(x.shape)}: they are (samples,) for an output "
        "(samples, classes), or have a class for each position. Any other loss is a function of yours, module:function."
    )


def _positions(x: Tensor) -> torch.Size:
    """Return the shape without the classes on axis 1."""
    return torch.Size((*x.shape[:1], *x.shape[2:]))


def _check_range(least: int, most: int, classes: int) -> None:
    if classes < 2:
        raise DataError(
            "The first output has 1 class, and cross entropy compares 2 and more. Give a loss of yours, module:function."
        )
    if least < 0 or most >= classes:
        raise DataError(
            f"The labels go from {least} to {most}; the first output has {classes} classes, 0 to {classes - 1}."
        )


def check_labels(extras: Mapping[str, npt.NDArray[Any]], model: ir.Model) -> None:
    """Check labels before anything that takes long is begun, as far as the model says what it answers.

    Args:
        extras: What the data has beside the inputs.
        model: The float model.

    Raises:
        DataError: There are none, some are no numbers, or one names a class that there is not.
    """
    if NAME not in extras:
        raise DataError(_MISSING)
    labels = np.asarray(extras[NAME])
    if labels.dtype.kind not in "iufb" or not np.isfinite(labels).all():
        raise DataError("The labels hold what is no number.")
    shape = model.graph.outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        return
    if labels.size == len(labels):
        _check_range(int(labels.min()), int(labels.max()), shape[1])
