"""Compare the outputs of two models as they are deployed, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.compare.report import OutputRow, PartRow
from calibrant.analysis.compare.stream import Pair
from calibrant.analysis.compare.tally import Tally
from calibrant.analysis.parts import Part, parts_of
from calibrant.data.batch import Batch
from calibrant.runtime.session import infer, open_session

__all__ = ["Outputs"]

Array = npt.NDArray[Any]

#: Samples that the parts of outputs are found from; they are kept until then.
_FIRST = 8

#: A runtime that loses more than this does something else than the graph says [dB].
_KERNELS_DB = 6.0

_Values = tuple[str, Array, Array]


class Outputs:
    """The outputs of two models, sample by sample.

    Args:
        truth: The first model, as it was given.
        mine: The second one.
        pair: Both as they are compared layer by layer.
        names: Output of the first -> output of the second.
        tally: Makes an empty tally.
    """

    def __init__(
        self,
        truth: ir.Model,
        mine: ir.Model,
        pair: Pair,
        names: Mapping[str, str],
        tally: Callable[[], Tally],
    ) -> None:
        """Open both models."""
        self._pair, self._new = pair, tally
        first, second = pair.runtimes
        self._truth = open_session(truth, runtime=first)
        self._mine = open_session(mine, runtime=second)
        kinds = {o.name: o.type for o in self._truth.get_outputs()}
        self._names = {n: m for n, m in names.items() if _is_number(kinds[n])}
        self.samples = 0
        self._kept: dict[str, list[_Values]] = {n: [] for n in self._names}
        self._parts: dict[str, tuple[Part, ...]] = {}
        self._tallies: dict[str, list[Tally]] = {}
        self.notes = [
            f"Output '{n}' of the first model has no counterpart in the second one, or is no tensor of numbers."
            for n in kinds
            if n not in self._names
        ]

    def add(self, batch: Batch) -> None:
        """Run both models on a batch."""
        feeds, other = self._pair.feeds(batch)
        truth = infer(self._truth, list(self._names), self._used(self._truth, feeds))
        mine = infer(self._mine, list(self._names.values()), self._used(self._mine, other))
        self.samples += batch.size
        for name, y, x in zip(self._names, truth, mine, strict=True):
            self._kept[name] += _samples(batch, np.asarray(x), np.asarray(y))
            if len(self._kept[name]) >= _FIRST or name in self._parts:
                self._count(name)

    def rows(self, limits: Mapping[str, float | None]) -> Iterator[OutputRow]:
        """Yield the outputs with what they are off by."""
        for name, mine in self._names.items():
            self._count(name)
            whole, *parts = (
                _row(part.name, tally, limits)
                for part, tally in zip(self._parts[name], self._tallies[name], strict=True)
            )
            yield OutputRow(name, mine, whole, tuple(parts) if len(parts) > 1 else ())

    def beside(self, computed: Mapping[str, float]) -> Iterator[str]:
        """Yield a note for each output that the runtime makes worse than the graph says.

        Args:
            computed: SQNR of tensors by name, where both models compute as their graphs say [dB].
        """
        for name, tallies in self._tallies.items():
            deployed = tallies[0].metrics["sqnr_db"]
            if deployed < computed.get(name, -np.inf) - _KERNELS_DB:
                yield (
                    f"Output '{name}' has {deployed:.1f} dB as the runtime computes it, and {computed[name]:.1f} dB as the "
                    "graph says: the integer kernels of this runtime, on this machine, lose the difference."
                )

    @staticmethod
    def _used(session: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {i.name: feeds[i.name] for i in session.get_inputs()}

    def _count(self, name: str) -> None:
        """Add what was kept; the first time, find the parts."""
        kept = self._kept[name]
        if name not in self._parts:
            found = parts_of(self._pair.truth, name, [y for _, _, y in kept])
            self._parts[name] = (Part(name), *found)
            self._tallies[name] = [self._new() for _ in self._parts[name]]
        for sample, x, y in kept:
            for part, tally in zip(self._parts[name], self._tallies[name], strict=True):
                if x.shape == y.shape:
                    tally.add(sample, part.take(x), part.take(y))
                else:
                    tally.add(sample, x, y)
        kept.clear()


def _is_number(kind: str) -> bool:
    """Whether ONNX Runtime's name of a type is one of tensors of numbers."""
    return kind.startswith("tensor(") and kind != "tensor(string)"


def _samples(batch: Batch, x: Array, y: Array) -> list[_Values]:
    """Return samples, each with the axis of samples in front, since parts count it."""
    if batch.size > 1 and x.shape[:1] == y.shape[:1] == (batch.size,):
        return [(batch.sample(i), x[i : i + 1], y[i : i + 1]) for i in range(batch.size)]
    return [(str(batch), x, y)]


def _row(name: str, tally: Tally, limits: Mapping[str, float | None]) -> PartRow:
    failed = tally.failed(limits)
    return PartRow(
        name,
        tally.shape,
        tally.metrics,
        tally.standard_deviation,
        tally.worst,
        not failed,
        failed,
        tally.reason,
        tally.agreement,
    )
