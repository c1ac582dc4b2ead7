"""Calibrate from an iterable of batches: a DataLoader, or anything like one.

    python data_loader.py

An item may be a dict of arrays by input name, one array, or a tuple (inputs, labels) as data loaders yield it;
arrays may be PyTorch tensors. Batches are read once, in order, and never held all at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import calibrant
from calibrant.demo import digits


class Loader:
    """Shuffled batches of (image, label), as `torch.utils.data.DataLoader(dataset, 16, shuffle=True)`."""

    def __init__(self, data: digits.Digits, batch_size: int, seed: int) -> None:
        """Keep the arrays."""
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.data.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches in a shuffled order."""
        order = np.random.default_rng(self.seed).permutation(len(self.data.labels))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self.data.image[chosen], self.data.labels[chosen]


def main() -> None:
    """Observe the same data in two orders and batch sizes, then quantize from a loader."""
    data = digits.calibration()
    first = calibrant.observe(digits.MODEL, Loader(data, 16, seed=0))
    second = calibrant.observe(digits.MODEL, Loader(data, 10, seed=1))
    equal = all(first[tensor].count == second[tensor].count for tensor in first)
    exact = first["image"] == second["image"]
    print(
        f"{len(first)} tensors; as many values in each: {equal}; input equal bit for bit: {exact}"
    )

    result = calibrant.quantize(digits.MODEL, Loader(data, 16, seed=0))
    quality = result.summary["quality"]["outputs"]["logits"]
    seen = result.summary["data"]
    print(f"{seen['samples']} samples in {seen['batches']} batches: {quality['sqnr_db']:.1f} dB")


if __name__ == "__main__":
    main()
