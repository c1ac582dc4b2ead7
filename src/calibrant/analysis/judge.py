"""Say how far outputs are from those of the float model, as a search asks.

The metric of several samples is the mean over them; of several outputs the worst counts, or the mean. Outputs
that are not floating point numbers, that no input changes, or that hold one value throughout say nothing and
are left out. An output behind a selection (boxes that are left) is replaced by what is selected from.

Source: docs/explanation/decisions.md, "Metrics by name".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.probe import Probe, before_selection
from calibrant.errors import ConfigRuntimeError
from calibrant.numerics.finite import finite_pairs
from calibrant.numerics.metrics import Metric, get_metric
from calibrant.recipe import Note, Search
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.tap import expose

__all__ = ["Judge", "Referee", "Verdict", "compared_outputs", "says_something"]

Array = npt.NDArray[Any]
Outputs = list[dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one candidate reached.

    Args:
        score: The metric of the worst output, or the mean over outputs.
        mean: The mean over outputs, which decides between equal scores.
        outputs: The metric of each output.
    """

    score: float
    mean: float
    outputs: Mapping[str, float]


class Referee(Protocol):
    """Says which of two verdicts is better; a `Judge` is one."""

    def better(self, one: Verdict, than: Verdict) -> bool:
        """Whether a verdict is strictly better than another."""
        ...

    def is_enough(self, verdict: Verdict) -> bool:
        """Whether a search may end with a verdict."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """The samples of a search, and what the float model answers to them.

    Args:
        search: What is compared, and how.
        feeds: Inputs.
        reference: The float model's outputs, those that count.
        rows: Whether the rows of a feed are samples.
        notes: What to say of the samples.
    """

    search: Search
    feeds: list[dict[str, Array]]
    reference: Outputs
    rows: bool
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(cls, search: Search, model: ir.Model, probe: Probe, runtime: Runtime = CPU) -> Judge:
        """Take the first samples of a probe.

        Raises:
            ConfigRuntimeError: No output can be compared.
        """
        feeds: list[dict[str, Array]] = []
        sizes: list[int] = []
        left = search.samples
        for batch in probe.small:
            if left <= 0:
                break
            part = batch.part(0, left) if probe.free else batch
            feeds.append(dict(part.feeds))
            sizes.append(part.size)
            left -= sizes[-1]
        names = compared_outputs(model)
        reference = _known(probe, names, sizes)
        if reference is None:
            reference = run(expose(model, names), feeds, integers=False, runtime=runtime)
        notes: tuple[Note, ...] = ()
        if left > 0:
            notes = (
                Note(
                    "search",
                    f"The search is to look at {search.samples} samples; the calibration data (or what is kept of "
                    f"it) has {search.samples - left}, and these are taken.",
                    honoured=True,
                ),
            )
        return cls(search, feeds, [], probe.free, notes).against(reference)

    def against(self, reference: Outputs) -> Judge:
        """Return a judge with other answers of the float model, of which those that say something count.

        Raises:
            ConfigRuntimeError: None does.
        """
        names = [n for n in reference[0] if says_something([r[n] for r in reference])]
        if not names:
            raise ConfigRuntimeError(
                "The search has no output to compare: the model's outputs are integers, or the same for every "
                "value. Cut the model before what makes them so."
            )
        return replace(self, reference=[{n: r[n] for n in names} for r in reference])

    @property
    def metric(self) -> Metric:
        """The distance of one output."""
        return get_metric(self.search.metric)

    @property
    def names(self) -> list[str]:
        """Outputs that count."""
        return list(self.reference[0])

    @property
    def samples(self) -> int:
        """How many samples there are."""
        if not self.rows:
            return len(self.feeds)
        return sum(next((len(x) for x in f.values() if x.ndim), 1) for f in self.feeds)

    def judge(self, outputs: Sequence[Mapping[str, Array]]) -> Verdict:
        """Compare outputs, one mapping a feed; those that are missing equal the float model's.

        An output whose shape came out differently, since it depends on the values, is NaN: the worst. Positions where
        the float model is not finite are left out.
        """
        scores = {}
        for name in self.names:
            values = [
                self.metric.perfect if name not in out else self._measured(a, b)
                for ref, out in zip(self.reference, outputs, strict=True)
                for a, b in self._samples(ref[name], out.get(name, ref[name]))
            ]
            scores[name] = _mean(values)
        listed = list(scores.values())
        worst = listed[self.metric.worst_first(listed)[0]]
        mean = _mean(listed)
        return Verdict(mean if self.search.aggregate == "mean" else worst, mean, scores)

    def better(self, one: Verdict, than: Verdict) -> bool:
        """Whether a verdict is strictly better than another."""
        if one.score == than.score or (math.isnan(one.score) and math.isnan(than.score)):
            return self.metric.better(one.mean, than.mean)
        return self.metric.better(one.score, than.score)

    def is_enough(self, verdict: Verdict) -> bool:
        """Whether the search may end with a verdict."""
        enough = self.search.good_enough
        if enough is None or math.isnan(verdict.score):
            return False
        return not self.metric.better(enough, verdict.score)

    def _measured(self, a: Array, b: Array) -> float:
        if np.shape(a) != np.shape(b):
            return math.nan
        a, b = finite_pairs(a, b)
        return self.metric.measure(a, b) if np.size(a) else self.metric.perfect

    def _samples(self, a: Array, b: Array) -> list[tuple[Array, Array]]:
        if not self.rows or a.ndim == 0 or a.shape != b.shape:
            return [(a, b)]
        return list(zip(a, b, strict=True))


def compared_outputs(model: ir.Model) -> list[str]:
    """Return the tensors that two forms of a model are compared by.

    These are its outputs that depend on its inputs; in the place of one behind a selection stand the tensors
    that are selected from.
    """
    found: dict[str, None] = {}
    for value in model.graph.outputs:
        computed = value.producer() is not None
        if computed and isinstance(value.type, (ir.TensorType, type(None))) and _varies(value):
            found |= dict.fromkeys(before_selection(value) or [value.name or ""])
    return list(found)


def _varies(value: ir.Value) -> bool:
    """Whether a tensor depends on an input of the model."""
    stack, seen = [value], set[ir.Value]()
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        node = v.producer()
        if node is None:
            if v.const_value is None:
                return True
        elif any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        ):
            return True  # what a body reads is not looked into
        else:
            stack += [i for i in node.inputs if i is not None]
    return False


def _known(probe: Probe, names: list[str], sizes: list[int]) -> Outputs | None:
    """Return what the float model answered to the first samples, or None where its rows are no samples."""
    found: Outputs = []
    reference = probe.reference[: len(sizes)]
    for batch, size, outputs in zip(probe.small, sizes, reference, strict=False):
        if not all(n in outputs for n in names):
            return None
        if size < batch.size:
            if any(np.shape(outputs[n])[:1] != (batch.size,) for n in names):
                return None
            outputs = {n: outputs[n][:size] for n in names}
        found.append({n: outputs[n] for n in names})
    return found


def _mean(values: Sequence[float]) -> float:
    """Return the mean; NaN where a value is NaN, or infinities of both signs meet."""
    return sum(values) / len(values)


def says_something(values: Sequence[Array]) -> bool:
    """Whether an output is of floating point numbers that are not all the same; a single number may be."""
    arrays = [np.asarray(x) for x in values]
    if any(x.dtype.kind != "f" for x in arrays):
        return False
    numbers = sum(x.size for x in arrays)
    if numbers < 2:
        return numbers == 1
    first = next(x for x in arrays if x.size).flat[0]
    return any(bool((x != first).any()) for x in arrays)
