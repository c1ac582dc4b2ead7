"""Texts: how many edits turn what was recognized into what was said or written.

    cer = sum D(found, right) / sum |right|          D: edit distance, of single tokens (characters)
    wer = the same of words, which are the tokens between two separators

D counts the fewest insertions, deletions and substitutions of one token each. Sums run over all samples, so long texts count more.

Outputs are token numbers (samples, length), or scores (samples, length, tokens), which are read greedily as connectionist
temporal classification means them: the best token of each step, repeats merged, blanks left out.

Sources: Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals", Soviet Physics Doklady 10, 1966
(the distance); Graves et al., "Connectionist temporal classification", ICML 2006, section 3.2 (reading, best path).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from calibrant.algorithms.options import options
from calibrant.analysis.tasks.corpus import CorpusMetric, of_pairs
from calibrant.data.batch import AnyArray
from calibrant.errors import DataError

__all__ = ["CharacterErrors", "WordErrors", "distance"]

Text = Sequence[Hashable]


@options
class CharacterErrors:
    """Character error rate: edits of single tokens, as a share of the tokens there should be.

    Args:
        blank: Token of no character, where outputs are scores; -1 for the last one.
    """

    blank: Annotated[int, Field(ge=-1)] = 0

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return _metric(name, self.blank, lambda tokens: tokens)


@options
class WordErrors:
    """Word error rate: edits of whole words, as a share of the words there should be.

    Args:
        space: Token that separates words; -1 where each token is a word.
        blank: Token of nothing, where outputs are scores; -1 for the last one.
    """

    space: Annotated[int, Field(ge=-1)] = -1
    blank: Annotated[int, Field(ge=-1)] = 0

    def metric(self, name: str) -> CorpusMetric:
        """Return the metric."""
        return _metric(name, self.blank, self._words)

    def _words(self, tokens: list[int]) -> Text:
        if self.space < 0:
            return tokens
        groups = itertools.groupby(tokens, lambda t: t == self.space)
        return [tuple(g) for separates, g in groups if not separates]


def distance(found: Text, right: Text) -> int:
    """Return the fewest edits from one text to the other.

    Example:
        >>> distance("kitten", "sitting")
        3
    """
    row = list(range(len(right) + 1))
    for i, a in enumerate(found, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def _metric(name: str, blank: int, units: Callable[[list[int]], Text]) -> CorpusMetric:
    def each(y: AnyArray, labels: AnyArray) -> list[tuple[int, int]]:
        found, right = _texts(y, blank), _references(labels)
        if len(found) != len(right):
            raise DataError(f"there are {len(found)} outputs for {len(right)} references.")
        pairs = [(units(f), units(r)) for f, r in zip(found, right, strict=True)]
        return [(distance(f, r), len(r)) for f, r in pairs]

    return CorpusMetric(name, of_pairs(each), _share, higher_is_better=False)


def _texts(y: AnyArray, blank: int) -> list[list[int]]:
    """Return the tokens of each output."""
    if y.ndim == 3 and y.dtype.kind == "f":
        none = y.shape[2] - 1 if blank < 0 else blank
        best = y.argmax(axis=2)
        return [[int(t) for t, _ in itertools.groupby(row.tolist()) if t != none] for row in best]
    if y.ndim == 2 and y.dtype.kind in "iu":
        return [[t for t in row if t >= 0] for row in y.tolist()]
    raise DataError(
        f"the output has shape {y.shape} ({y.dtype}); expected are scores (samples, length, tokens) as floats, or token numbers "
        "(samples, length) as integers, negative ones behind the end."
    )


def _references(labels: AnyArray) -> list[list[int]]:
    if labels.ndim != 2 or labels.dtype.kind not in "iuf" or (labels != np.rint(labels)).any():
        raise DataError(
            f"the reference has shape {labels.shape} ({labels.dtype}); expected are token numbers (samples, length), negative "
            "ones behind the end of a text."
        )
    return [[int(t) for t in row if t >= 0] for row in labels.tolist()]


def _share(samples: Sequence[tuple[int, int]]) -> float:
    edits, units = (sum(x) for x in zip(*samples, strict=True))
    return edits / units if units else math.nan
