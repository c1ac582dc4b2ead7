"""How like the float model's outputs those of another model are, where there are no labels.

    cosine_similarity    x . y / (|x| |y|), the mean over samples; 1 for equal outputs
    sqnr_db              10 log10(sum y^2 / sum (x - y)^2) over all samples [dB]; inf for equal outputs

Outputs are compared part by part (`analysis.parts`), and the part that is furthest off counts. Both models are run on the
same data; the float one once, and what it answers is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.judge import says_something
from calibrant.analysis.parts import Part, parts_of
from calibrant.data.batch import Batch, InputInfo
from calibrant.data.open import Batches, open_data
from calibrant.errors import ConfigRuntimeError
from calibrant.graph.load import prepare
from calibrant.runtime.inputs import input_infos
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.workers import Workers
from calibrant.tuner.off_by import Answered, OffBy, Sums, divided, off_by
from calibrant.tuner.samples import Part as Piece

__all__ = ["LIKENESSES", "LOOK", "Likeness"]

Array = npt.NDArray[Any]

LIKENESSES = ("cosine_similarity", "sqnr_db")

#: Samples that the parts of outputs are found from.
_FIRST = 8

#: Samples of a look, at most; and at most this share of all.
LOOK, _SHARE = 32, 0.25

#: So many samples of a look have to count, for it to be read.
_COUNT = 8.0


@dataclass(slots=True, eq=False)
class Likeness:
    """Compares models with the float model.

    Args:
        original: The float model.
        data: Samples, as `open_data` takes them; references beside them are not read.
        measure: One of `LIKENESSES`.
        runtime: Where models run.
        reading: `batch_size` and `preprocess`, as `open_data` takes them.
        workers: Who runs models on the data; None for this process alone.
    """

    original: ir.Model
    data: Any
    measure: str
    runtime: Runtime
    reading: Mapping[str, Any]
    workers: Workers | None = None
    _truth: list[dict[str, Array]] = field(default_factory=list)
    _parts: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    _inputs: list[InputInfo] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    _few: list[Answered] = field(default_factory=list)

    def of(self, model: ir.Model) -> tuple[float, int]:
        """Return how like a model's outputs are, and on how many samples.

        Raises:
            ConfigRuntimeError: No output says anything.
            ModelError: A model does not run.
        """
        if not self._truth:
            self._open()
        return self._counted(self._all(model))

    def look(self, model: ir.Model) -> tuple[float, int]:
        """Return the same of a few samples that are spread over the data, and how many these are.

        Raises:
            ConfigRuntimeError: No output says anything.
            ModelError: A model does not run.
        """
        if not self._few:
            self._choose()
        return self._measured(model, self._few)

    def telling(self, model: ir.Model) -> float | None:
        """Return what a model's look says where it says something: None where a few of its samples decide the whole.

        With l_i what is lost in a sample, (sum l)^2 / sum l^2 of them count: all of them where each loses the same. Behind a Softmax it
        is often one or two, in which the float model is uncertain. Source: Kish, "Survey Sampling", 1965, section 11.7.
        """
        if not self._few:
            self._choose()
        if len(self._few) < _COUNT:
            return None
        single = [sums for sums, _ in self._each(model, self._few)]
        lost = np.array([[s.lost(self.measure) for s in sums.values()] for sums in single])
        total, squares = lost.sum(axis=0), (lost**2).sum(axis=0)  # (parts,)
        if not np.isfinite(squares).all() or (total**2 < _COUNT * squares).any():
            return None
        return self._value(single)

    def _measured(self, model: ir.Model, pairs: Iterable[Answered]) -> tuple[float, int]:
        return self._counted(self._each(model, pairs))

    def _counted(self, found: Iterable[OffBy]) -> tuple[float, int]:
        each = list(found)
        return self._value([sums for sums, _ in each]), sum(size for _, size in each)

    def _value(self, each: Sequence[Mapping[str, Sums]]) -> float:
        """Return the measure of the worst part, of all batches together."""
        return min(sum((s[n] for s in each), Sums()).value(self.measure) for n in each[0])

    def _each(self, model: ir.Model, pairs: Iterable[Answered]) -> Iterator[OffBy]:
        """Yield what each part is off by in each batch, and how many samples that has."""
        return off_by(model, self._parts, pairs, self.runtime)

    def _all(self, model: ir.Model) -> Iterator[OffBy]:
        """Yield that of all batches, by this process or by workers."""
        ends = np.cumsum(self._sizes)
        edges = [(int(e) - size, int(e)) for e, size in zip(ends, self._sizes, strict=True)]
        data = self._data()
        if self.workers is None or len(edges) < 2 or not data.by_index or data.samples is None:
            return self._each(model, zip(self._batches(), self._truth, strict=True))
        return divided(
            self.workers,
            model,
            self._parts,
            Piece(self.data, tuple(self._inputs), self.reading, tuple(edges)),
            self._truth,
            self.runtime,
        )

    def _choose(self) -> None:
        """Keep samples for looks, with what the float model answers; whole batches where the model takes no single ones."""
        if not self._truth:
            self._open()
        session = open_session(self.original, runtime=self.runtime)
        single = not any(
            len(i.dims) and isinstance(i.dims[0], int) and i.dims[0] > 1 for i in self._inputs
        )
        count = sum(self._sizes)
        wanted = max(1, min(LOOK, int(_SHARE * count)))
        chosen = {int(i) for i in np.linspace(0, count - 1, wanted).round()}
        start, left = 0, wanted
        for batch in self._batches():
            mine = [i - start for i in range(start, start + batch.size) if i in chosen]
            start += batch.size
            if not mine or left <= 0:
                continue
            cut = single and not batch.whole
            for piece in [batch.part(i, i + 1) for i in mine] if cut else [batch]:
                left -= piece.size
                feeds = {i.name: piece.feeds[i.name] for i in self._inputs}
                values = infer(session, list(self._parts), feeds)
                truth = dict(zip(self._parts, map(np.asarray, values), strict=True))
                self._few.append((piece, truth))

    def _data(self) -> Batches:
        return open_data(self.data, self._inputs, **self.reading)

    def _batches(self) -> Iterator[Batch]:
        return iter(self._data())

    def _open(self) -> None:
        session = open_session(self.original, runtime=self.runtime)
        self._inputs = input_infos(session, self.original)
        names = [o.name for o in session.get_outputs() if o.type.startswith("tensor(")]
        for batch in self._batches():
            values = infer(session, names, {i.name: batch.feeds[i.name] for i in self._inputs})
            self._truth.append(dict(zip(names, map(np.asarray, values), strict=True)))
            self._sizes.append(batch.size)
        reference = self._truth[:_FIRST]
        said = [n for n in names if says_something([r[n] for r in reference])]
        if not said:
            raise ConfigRuntimeError(
                "Without labels outputs are compared, and none says anything: they are integers, or the same for every "
                "input. Give labelled data and a metric, or a function that evaluates."
            )
        model = prepare(self.original)
        self._parts = {n: parts_of(model, n, [r[n] for r in reference]) for n in said}
