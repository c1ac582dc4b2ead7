"""What was seen of a model's tensors, as one value that merges and saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from calibrant.errors import DataError
from calibrant.stats.store import load_statistics, save_statistics
from calibrant.stats.tensor import TensorStats

__all__ = ["Statistics"]

#: Tensors that `repr` names.
NAMED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Statistics(Mapping[str, TensorStats]):
    """Statistics by tensor name; a mapping.

    Workers that see different parts of the data each make one, and `merge` joins them to exactly what one
    worker would have seen.

    Args:
        tensors: Statistics by tensor name.
        digest: Names the model they belong to, its weights and its form included. `calibrant.observe` fills it in.
    """

    tensors: Mapping[str, TensorStats]
    digest: str = ""

    def __repr__(self) -> str:
        first = ", ".join(list(self.tensors)[:NAMED])
        return f"Statistics({len(self)} tensors: {first}{', …' if len(self) > NAMED else ''})"

    def __getitem__(self, name: str) -> TensorStats:
        """Return the statistics of one tensor."""
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over tensor names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of the data of both.

        Raises:
            DataError: They belong to different models (other weights count, and another form of the same one),
                or to different tensors of one.
        """
        if self.digest != other.digest:
            raise DataError(
                f"These statistics belong to different models (digests '{self.digest[:12]}' and "
                f"'{other.digest[:12]}'); they do not merge. Parts of the data are observed with the same model "
                "and the same recipe."
            )
        for name in sorted(set(self) ^ set(other))[:1]:
            raise DataError(
                f"These statistics are of different tensors: '{name}' is in one of them alone; they do not merge. "
                "Parts of the data are observed with the same recipe."
            )
        return Statistics({n: s.merge(other[n]) for n, s in self.tensors.items()}, self.digest)

    def save(self, path: str | Path) -> None:
        """Write to one .npz file.

        Raises:
            OutputError: The file cannot be written.
        """
        save_statistics(path, self.tensors, digest=self.digest)

    @classmethod
    def load(cls, path: str | Path, *, digest: str | None = None) -> Statistics:
        """Read a file that `save` wrote.

        Args:
            path: The file.
            digest: The digest that it has to have; None takes any.

        Raises:
            DataError: The file is damaged, or belongs to another model.
        """
        return cls(*load_statistics(path, digest=digest))
