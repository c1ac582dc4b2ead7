"""What says which state of a run is the best, and whether training is better than calibration.

    evaluate   a function of the deployed model, from whoever trains
    held       without one: samples that are not trained on
                 distill      SQNR of the outputs against the float model's [dB]
                 other losses minus the loss of the outputs

Samples that a final figure is measured on decide nothing here: `verdict`, where it is given, scores the float, the
calibrated and the chosen model once each at the end, and where one was trained beside, the float model that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from calibrant.qat.losses import Distill, Loss
from calibrant.qat.samples import TrainingData
from calibrant.qat.trainable import Trainable
from calibrant.runtime.measure import compare, run

__all__ = ["Evaluate", "Held"]

#: Scores a model; more is better.
Evaluate = Callable[[ir.Model], float]

#: SQNR that counts at most: equal outputs have no finite one [dB].
MOST_DB = 120.0
#: Samples in a run.
BATCH = 32


class Held:
    """Scores deployed models on samples that were held back.

    Args:
        qat: What is trained.
        data: The samples.
        loss: What it is trained for.
    """

    def __init__(self, qat: Trainable, data: TrainingData, loss: Loss) -> None:
        """Run the float model on the samples."""
        self.qat, self.loss = qat, loss
        size = min(data.batch_size(BATCH), len(data))
        self.feeds: list[dict[str, np.ndarray[Any, Any]]] = []
        self.extras: list[Mapping[str, torch.Tensor]] = []
        self.sizes: list[int] = []
        for rows, inputs, extras in data.in_order(size, qat.inputs):
            self.feeds.append({n: x.numpy() for n, x in zip(qat.inputs, inputs, strict=True)})
            self.extras.append(extras)
            self.sizes.append(len(rows))
        self.reference = run(qat.solution.original, self.feeds, runtime=qat.runtime)

    def __call__(self, model: ir.Model) -> float:
        """Score a model; more is better."""
        mine = run(model, self.feeds, integers=False, runtime=self.qat.runtime)
        if isinstance(self.loss, Distill):
            found = [min(q.sqnr_db, MOST_DB) for q in compare(self.reference, mine)]
            return float(np.mean(found)) if found else 0.0
        losses = [self._loss(*x) for x in zip(mine, self.reference, self.extras, strict=True)]
        return -float(np.average(losses, weights=self.sizes))

    @torch.no_grad()
    def _loss(
        self,
        mine: Mapping[str, np.ndarray[Any, Any]],
        theirs: Mapping[str, np.ndarray[Any, Any]],
        extras: Mapping[str, torch.Tensor],
    ) -> float:
        outputs, wanted = (
            tuple(torch.from_numpy(np.asarray(answers[n])) for n in self.qat.outputs)
            for answers in (mine, theirs)
        )
        return float(self.loss(outputs, wanted, extras))
