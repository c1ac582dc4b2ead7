"""Training samples in memory, handed out in batches in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibrant.data.open import open_data
from calibrant.errors import DataError
from calibrant.graph.load import load
from calibrant.runtime.inputs import model_inputs

__all__ = ["TrainingData", "read_samples"]

#: Rows, inputs, and what else there is of each.
Samples = tuple[npt.NDArray[np.int64], tuple[Tensor, ...], dict[str, Tensor]]

#: Samples that are held in memory at most [bytes].
LIMIT_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Samples by input, and what else the source has of each.

    Args:
        inputs: Input -> (samples, …); an input that is one number for all samples is in `shared`.
        extras: Other arrays of the source with a row for each sample, such as labels.
        shared: Inputs that are the same for all samples.
        fixed: The batch that the model takes, where it takes no other.
        whole: The inputs share no axis of samples: a feed is a sample, and a step is one of them.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    extras: Mapping[str, npt.NDArray[Any]]
    shared: Mapping[str, npt.NDArray[Any]]
    fixed: int | None = None
    whole: bool = False

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.inputs.values())))

    def spread(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return so many samples, evenly over all: what calibration reads."""
        n = len(self)
        rows = np.unique(np.linspace(0, n - 1, min(count, n)).astype(np.int64))
        return {**{k: x[rows] for k, x in self.inputs.items()}, **self.shared}

    def split(self, held: int) -> tuple[TrainingData, TrainingData]:
        """Return the samples without some that are held back, and these, evenly over all.

        Args:
            held: So many, rounded up to whole batches where the model takes no other.
        """
        n = len(self)
        if self.fixed is not None:
            held = -(-held // self.fixed) * self.fixed
        rows = np.unique(np.linspace(0, n - 1, min(held, n)).astype(np.int64))
        rest = np.setdiff1d(np.arange(n), rows)
        return self._take(rest), self._take(rows)

    def _take(self, rows: npt.NDArray[np.int64]) -> TrainingData:
        return TrainingData(
            {k: x[rows] for k, x in self.inputs.items()},
            {k: x[rows] for k, x in self.extras.items()},
            self.shared,
            self.fixed,
            self.whole,
        )

    def batch_size(self, asked: int) -> int:
        """Return the batch that is trained with."""
        return self.fixed if self.fixed is not None else min(asked, len(self))

    def batches(
        self, size: int, names: Sequence[str], *, seed: int, epoch: int, first: int = 0
    ) -> Iterator[Samples]:
        """Yield rows, inputs in the order of `names`, and extras; the last samples that fill no batch are left out.

        Args:
            size: Samples in a batch.
            names: Inputs.
            seed: Decides the order, with the epoch.
            epoch: How many times the data was gone through.
            first: Batch to begin with.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        for i in range(first, len(self) // size):
            yield self._batch(order[i * size : (i + 1) * size], names)

    def in_order(self, size: int, names: Sequence[str]) -> Iterator[Samples]:
        """Yield all samples as they lie, as `batches` does; the last ones are a smaller batch.

        Args:
            size: Samples in a batch.
            names: Inputs.
        """
        for start in range(0, len(self), size):
            yield self._batch(np.arange(start, min(start + size, len(self))), names)

    def _of(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if name in self.shared:
            return self.shared[name]
        return _rows(self.inputs[name], rows, self.whole)

    def _batch(self, rows: npt.NDArray[np.int64], names: Sequence[str]) -> Samples:
        inputs = tuple(torch.from_numpy(self._of(n, rows)) for n in names)
        return (
            rows,
            inputs,
            {k: torch.from_numpy(_rows(x, rows, self.whole)) for k, x in self.extras.items()},
        )


def read_samples(model: Any, data: Any, preprocess: str | Path | None = None) -> TrainingData:
    """Read training samples, in any form that calibration data may have, into memory.

    Args:
        model: The model that they are for.
        data: The data.
        preprocess: File that says how raw samples become inputs.

    Raises:
        DataError: The data is empty, does not fit the model, or is larger than memory allows for.
    """
    batches = open_data(data, model_inputs(load(model)), preprocess=preprocess)
    inputs: dict[str, list[npt.NDArray[Any]]] = {}
    extras: dict[str, list[npt.NDArray[Any]]] = {}
    shared: dict[str, npt.NDArray[Any]] = {}
    held, whole = 0, False
    for batch in batches:
        whole = whole or batch.whole
        for name, x in batch.feeds.items():
            if name in batch.shared and not batch.whole:
                shared[name] = np.asarray(x)
                continue
            inputs.setdefault(name, []).append(
                np.asarray(x)[None] if batch.whole else np.asarray(x)
            )
            held += x.nbytes
        for name, x in batch.extras.items():
            extras.setdefault(name, []).append(
                np.asarray(x)[None] if batch.whole else np.asarray(x)
            )
        if held > LIMIT_BYTES:
            raise DataError(
                f"{batch.source} has more than {LIMIT_BYTES >> 30} GiB of samples; training holds all of them in "
                "memory. Give fewer of them."
            )
    if whole:
        return TrainingData(_joined(inputs), _joined(extras), shared, 1, whole=True)
    sizes = {b.shape[0] for parts in inputs.values() for b in parts}
    fixed = next(iter(sizes)) if batches.batch_size is not None and _is_fixed(model) else None
    return TrainingData(_joined(inputs), _joined(extras), shared, fixed)


def _rows(x: npt.NDArray[Any], rows: npt.NDArray[np.int64], whole: bool) -> npt.NDArray[Any]:
    """Return samples of an array; a feed that is a sample has no axis of samples."""
    return np.asarray(x[rows[0]]) if whole else x[rows]  # a feed may be one number


def _is_fixed(model: Any) -> bool:
    """Whether the first axis of some input has a length of its own."""
    shapes = [i.shape for i in model_inputs(load(model)) if i.shape]
    return any(isinstance(s[0], int) for s in shapes)


def _joined(parts: Mapping[str, list[npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    try:
        return {k: np.concatenate(xs) for k, xs in parts.items()}
    except ValueError as e:
        raise DataError(
            f"Training samples have different shapes, and training holds them in one array: {e}."
        ) from e
