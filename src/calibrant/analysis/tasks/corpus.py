"""Metrics of a whole set of samples: no mean over samples, but a value of what each of them contributes.

The mean average precision of a detector, the intersection over union of a class, a correlation: what one sample scores says
little, or nothing. Each sample gives statistics that are sufficient, and the value of any set of samples is a function of theirs:

    value(S) = f({t(output_i, reference_i) : i in S})

So an evaluation holds these alone, and samples can be drawn again without running the model (`tuner.corpus`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.analysis.task_metrics import paired_arrays
from calibrant.data.batch import AnyArray
from calibrant.errors import DataError, ModelError

__all__ = ["CorpusMetric", "of_pairs"]

Arrays = Mapping[str, AnyArray]


@dataclass(frozen=True, slots=True)
class CorpusMetric:
    """A metric of a set of samples.

    Args:
        name: As asked for.
        each: (outputs, references) of one batch to what each of its samples contributes.
        value: What samples contribute to the value of all of them; NaN where it is not defined.
        higher_is_better: Its direction.
    """

    name: str
    each: Callable[[Arrays, Arrays], Sequence[Any]]
    value: Callable[[Sequence[Any]], float]
    higher_is_better: bool = True

    def of_samples(self, outputs: Arrays, references: Arrays, where: str) -> list[Any]:
        """Return what each sample of one batch contributes.

        Raises:
            DataError: The data has no reference, or one that does not fit the output.
            ModelError: An output is NaN.
        """
        for name, values in outputs.items():
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise ModelError(
                    f"Output '{name}' of the model is NaN at {where}; {self.name} means nothing."
                )
        try:
            return list(self.each(outputs, references))
        except DataError as e:
            raise DataError(f"{where}: {self.name}: {e}") from e


def of_pairs(
    each: Callable[[AnyArray, AnyArray], Sequence[Any]],
) -> Callable[[Arrays, Arrays], Sequence[Any]]:
    """Return a function of all outputs and references from one of a single output and its reference.

    The reference named like an output belongs to it; otherwise `labels`, or the only one there is, belongs to the first output.
    """

    def function(outputs: Arrays, references: Arrays) -> Sequence[Any]:
        (name, values), (label, reference) = paired_arrays(outputs, references)
        try:
            return each(values, reference)
        except DataError as e:
            raise DataError(f"output '{name}' and '{label}': {e}") from e

    return function
