"""Task metrics that are means over samples: how good a model's outputs are against references.

An evaluation holds no more than one batch of outputs:

    top<k>    share of labels among the k largest scores; of equal scores the earlier class comes first
    mse       mean (output - reference)**2                                    [units of the output, squared]
    mae       mean |output - reference|                                       [units of the output]

Those that are no means are in `analysis.tasks`, whose `registry` knows all by name. A function of the user's own,
`module:function`, gets all outputs at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.data.batch import AnyArray
from calibrant.errors import ConfigValueError, DataError, ModelError, did_you_mean

__all__ = ["MEANS", "BatchMetric", "batch_metric", "paired_arrays"]

#: Names -> what they are.
MEANS = {
    "top1": "Share of samples whose class is right; top<k> for the best k.",
    "top5": "Share of samples whose class is among the five best.",
    "mse": "Mean squared difference to the references.",
    "mae": "Mean absolute difference to the references.",
}

Outputs = Mapping[str, AnyArray]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BatchMetric:
    """A metric that is a mean over samples.

    Args:
        name: As asked for.
        each: (scores or output, reference) of one batch to (sum of each sample, terms in each).
        higher_is_better: Its direction.
        bounds: Between which values the mean of a sample always lies; None where nobody knows.
        margins: (scores, labels) of one batch to how far each sample is from another answer (samples,); None where nobody knows.
    """

    name: str
    each: Callable[[AnyArray, AnyArray], tuple[Floats, int]]
    higher_is_better: bool = True
    bounds: tuple[float, float] | None = None
    margins: Callable[[AnyArray, AnyArray], Floats] | None = None

    def of_batch(
        self, outputs: Outputs, references: Mapping[str, AnyArray], where: str
    ) -> tuple[float, int]:
        """Return sum and count of one batch; errors are those of `of_samples`."""
        sums, terms = self.of_samples(outputs, references, where)
        return float(sums.sum()), terms * len(sums)

    def of_samples(
        self, outputs: Outputs, references: Mapping[str, AnyArray], where: str
    ) -> tuple[Floats, int]:
        """Return the sum of each sample of one batch (samples,), and how many terms each of them has.

        Raises:
            DataError: The data has no reference, or one that does not fit the output.
            ModelError: An output is NaN.
        """
        output, reference = paired_arrays(outputs, references)
        name, values = output
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ModelError(
                f"Output '{name}' of the model is NaN at {where}; {self.name} means nothing."
            )
        try:
            return self.each(values, reference[1])
        except DataError as e:
            raise DataError(
                f"{where}: {self.name} of output '{name}' and '{reference[0]}': {e}"
            ) from e

    def margins_of(self, outputs: Outputs, references: Mapping[str, AnyArray]) -> Floats | None:
        """Return how far each sample of one batch, which was scored, is from another answer (samples,); None where nobody knows."""
        if self.margins is None:
            return None
        output, reference = paired_arrays(outputs, references)
        return self.margins(output[1], reference[1])


def batch_metric(name: str) -> BatchMetric:
    """Return a metric that is a mean over samples and has no options, by name.

    Raises:
        ConfigValueError: Another name; it lists what there is.
    """
    if match := re.fullmatch(r"top([1-9]\d*)", name):
        k = int(match[1])
        return BatchMetric(
            name,
            lambda scores, labels: _hits(scores, labels, k),
            bounds=(0.0, 1.0),
            margins=lambda scores, labels: top_k_margins(scores, labels, k),
        )
    if name == "mse":
        return BatchMetric(name, lambda y, r: _differences(y, r, np.square), False)
    if name == "mae":
        return BatchMetric(name, lambda y, r: _differences(y, r, np.abs), False)
    raise ConfigValueError(
        f"Unknown metric '{name}'. Known: {', '.join(MEANS)} (any top<k>), or module:function."
        + did_you_mean(name, MEANS)
    )


def top_k(scores: AnyArray, labels: AnyArray, k: int) -> tuple[int, int]:
    """Count labels among the k largest scores.

    Args:
        scores: (samples, classes, …); dimensions behind it are positions if the labels have them too,
            and have to be 1 otherwise.
        labels: (samples, …) whole numbers from 0.
        k: How many of the scores count.

    Returns:
        Hits and labels.

    Raises:
        ConfigValueError: k is not below the number of classes.
        DataError: Labels are no class numbers, or of another shape.

    Example:
        >>> top_k(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), 1)
        (1, 2)
    """
    hits, terms = _hits(scores, labels, k)
    return int(hits.sum()), terms * len(hits)


def top_k_margins(scores: AnyArray, labels: AnyArray, k: int) -> Floats:
    """Return how far each sample is from another answer: |score of the label - k-th largest score of the other classes| (samples,).

    Of a sample with several positions it is the least of theirs. Arguments and errors are those of `top_k`.

    Example:
        >>> top_k_margins(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), 1)
        array([0.5, 0. ])
    """
    scores, index = _by_class(scores, labels, k)
    own = np.take_along_axis(scores, index, axis=1)
    others = np.array(scores, dtype=np.float64)
    np.put_along_axis(others, index, -np.inf, axis=1)
    limit = -np.partition(-others, k - 1, axis=1)[:, k - 1 : k]
    with np.errstate(invalid="ignore"):  # two scores that are infinite are equal
        far = np.nan_to_num(np.abs(own - limit), nan=0.0, posinf=np.inf)
    return np.asarray(far.reshape(len(far), -1).min(axis=1))


def _hits(scores: AnyArray, labels: AnyArray, k: int) -> tuple[Floats, int]:
    """Return the labels of each sample that are among the k largest scores, and how many each has."""
    scores, index = _by_class(scores, labels, k)
    own = np.take_along_axis(scores, index, axis=1)
    classes = scores.shape[1]
    earlier = np.arange(classes).reshape(1, -1, *[1] * (scores.ndim - 2)) < index
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)  # (samples, …)
    hits = (rank < k).reshape(len(rank), -1)
    return hits.sum(axis=1).astype(np.float64), int(hits.shape[1])


def _by_class(scores: AnyArray, labels: AnyArray, k: int) -> tuple[AnyArray, AnyArray]:
    """Return scores (samples, classes, …) and labels (samples, 1, …), checked."""
    labels = labels.reshape(len(labels), *(d for d in labels.shape[1:] if d != 1))
    if labels.ndim == 1:
        scores = scores.reshape(len(scores), -1)
    if scores.ndim < 2 or scores.shape[:1] + scores.shape[2:] != labels.shape:
        raise DataError(
            f"scores of shape {scores.shape} do not fit labels of shape {labels.shape}."
        )
    classes = scores.shape[1]
    if k >= classes:
        raise ConfigValueError(f"top{k} needs more than {k} classes; the output has {classes}.")
    whole = labels.astype(np.int64)
    if labels.dtype.kind not in "iuf" or (whole != labels).any():
        raise DataError("labels have to be class numbers, whole and from 0.")
    if whole.min() < 0 or whole.max() >= classes:
        raise DataError(
            f"labels run from {whole.min()} to {whole.max()}; the output has classes 0 to {classes - 1}."
        )
    return scores, whole[:, np.newaxis]


def _differences(
    value: AnyArray, reference: AnyArray, loss: Callable[[AnyArray], AnyArray]
) -> tuple[Floats, int]:
    if value.shape != reference.shape:
        if value.size != reference.size or len(value) != len(reference):
            raise DataError(f"shapes {value.shape} and {reference.shape} differ.")
        reference = reference.reshape(value.shape)  # (samples,) beside (samples, 1)
    if reference.dtype.kind not in "iufb":
        raise DataError(f"the reference is {reference.dtype}, not numbers.")
    difference = value.astype(np.float64) - reference.astype(np.float64)
    found = loss(difference).reshape(len(difference), -1)
    return np.asarray(found.sum(axis=1)), int(found.shape[1])


def paired_arrays(
    outputs: Outputs, references: Mapping[str, AnyArray]
) -> tuple[tuple[str, AnyArray], tuple[str, AnyArray]]:
    """Return the output to judge and its reference, each with its name.

    The reference named like an output belongs to it; otherwise `labels`, or the only one there is,
    belongs to the first output.
    """
    for name in outputs:
        if name in references:
            return (name, outputs[name]), (name, references[name])
    first = next(iter(outputs))
    names: Sequence[str] = ["labels"] if "labels" in references else list(references)
    if len(names) != 1:
        there = f"it has {', '.join(names)}" if names else "it has none besides the model's inputs"
        raise DataError(
            f"The data has no array 'labels', nor one named like an output "
            f"({', '.join(outputs)}), to compare the outputs with; {there}."
        )
    return (first, outputs[first]), (names[0], references[names[0]])
