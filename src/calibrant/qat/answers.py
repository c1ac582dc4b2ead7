"""What the float network answers to training samples; kept, so that each sample is asked for once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Answers"]

#: Bytes of answers that are kept.
KEPT_BYTES = 2**30


class Answers:
    """Answers of a network, by sample.

    Args:
        teacher: The network; called with inputs.
        samples: How many samples there are.
        keeps: The samples are the same each time. Where they are not, the network is asked anew each time, too.
    """

    def __init__(self, teacher: Callable[..., Any], samples: int, *, keeps: bool = True) -> None:
        """Begin with nothing."""
        self.teacher, self.samples, self.keeps = teacher, samples, keeps
        self.kept: list[Tensor] | None = None
        self.known = np.zeros(samples, dtype=bool)

    @torch.no_grad()
    def of(self, rows: npt.NDArray[np.int64], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the answers to samples, in the order of the outputs.

        Args:
            rows: Which samples they are.
            inputs: The samples.
        """
        if self.kept is not None and bool(self.known[rows].all()):
            return tuple(k[self._index(rows, k)] for k in self.kept)
        answer = self.teacher(*inputs)
        answers = answer if isinstance(answer, tuple) else (answer,)
        if self.keeps and self.kept is None:
            size = sum(a.nbytes for a in answers) / len(rows) * self.samples
            self.keeps = size <= KEPT_BYTES and all(
                a.ndim and a.shape[0] == len(rows) for a in answers
            )
            if self.keeps:
                self.kept = [a.new_empty((self.samples, *a.shape[1:])) for a in answers]
        if self.kept is not None:
            for store, a in zip(self.kept, answers, strict=True):
                store[self._index(rows, store)] = a
            self.known[rows] = True
        return answers

    @staticmethod
    def _index(rows: npt.NDArray[np.int64], where: Tensor) -> Tensor:
        return torch.from_numpy(rows).to(where.device)
