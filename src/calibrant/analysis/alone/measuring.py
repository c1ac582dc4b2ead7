"""Measure many layers, each by what the model answers where that layer alone reads something else.

All layers are measured on the first quarter of the samples; on the rest the worst, as long as the budget lasts. A layer that
lost little on the first samples is estimated from them:

    loss over all samples ~ loss over the first * (sum over worst layers of their loss over all / of their loss over the first)

since samples that are hard for one layer are hard for the others. The layers that matter are always measured on everything.

Float activations are kept for as many feeds at a time as fit the memory limit.

Source of the estimate: Cochran, "Sampling Techniques", 3rd ed., Wiley 1977, section 6.2 (ratio estimate). To spend more on
what may be the worst: Karnin, Koren, Somekh, "Almost Optimal Exploration in Multi-Armed Bandits", ICML 2013 (sequential
halving).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.alone.divided import Group, divide
from calibrant.analysis.alone.feeds import Feeds
from calibrant.analysis.alone.journal import Journal, content_key
from calibrant.analysis.alone.jury import Jury, Sums, added
from calibrant.analysis.alone.metric import RankedBy
from calibrant.analysis.readings import Reading
from calibrant.analysis.sensitivity import one_layer
from calibrant.errors import ModelError
from calibrant.graph.digest import digest
from calibrant.progress import Progress
from calibrant.runtime.downstream import Whole, Work
from calibrant.runtime.measure import run
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.tap import expose
from calibrant.runtime.workers import Workers

__all__ = ["MEMORY_BYTES", "Figures", "Measured", "Question", "measure"]

Array = npt.NDArray[Any]

#: Bytes of activations that are kept at a time, at most; one feed is always kept.
MEMORY_BYTES = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked of a network.

    Args:
        model: The float model, whose answers are right.
        base: The model that a layer is changed in: the float model, or the quantized one.
        reading: What a changed layer reads.
        layers: Layers, in graph order.
        outputs: Tensors that are compared.
    """

    model: ir.Model
    base: ir.Model
    reading: Reading
    layers: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one layer.

    Args:
        first: Sums over the first samples.
        all: Sums over all of them; None where the layer was measured on the first alone.
    """

    first: Sums
    all: Sums | None


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was measured.

    Args:
        layers: Figures by layer.
        base: Sums of the model that layers are changed in.
        macs: Multiplications of each layer for one sample.
        first: Samples that all layers were measured on.
        samples: All samples.
        passes: Work that was done, in passes of all samples through the model, by multiplications.
        node_passes: The same by nodes that were run.
        jury: How outputs were compared.
    """

    layers: dict[str, Figures]
    base: Sums
    macs: dict[str, float]
    first: int
    samples: int
    passes: float
    node_passes: float
    jury: Jury


def measure(
    question: Question,
    feeds: Feeds,
    metric: RankedBy,
    worst: Callable[[Mapping[str, Sums], Sums], Sequence[str]],
    *,
    budget: float | None,
    journal: Journal,
    memory: int = MEMORY_BYTES,
    progress: Progress,
    runtime: Runtime,
    workers: Workers | None = None,
) -> Measured:
    """Measure all layers of a question.

    Args:
        question: What is asked.
        feeds: Samples.
        metric: What layers are ranked by.
        worst: (sums by layer, sums of the base model) -> the layers, worst first.
        budget: Passes of all samples through the model that a layer may cost on average; None measures each layer on
            all samples.
        journal: What is known already, and where new figures go.
        memory: Bytes of activations that are kept at a time.
        progress: Told of layers.
        runtime: Where models run.
        workers: Who measures layers; None for this process alone. Figures are the same.

    Raises:
        ModelError: The model does not run.
        ConfigRuntimeError: No output can be compared.
    """
    bout = _Bout.of(question, feeds, metric, journal, memory, runtime)
    bout.workers = workers
    layers = question.layers
    count = len(bout.feeds.batches)
    first = count if bout.is_enough(budget) else bout.feeds.first()
    early = range(first)
    bout.planned = len(layers) + (0 if first == count else len(layers))
    found = bout.run(early, layers, progress)
    rest = list(layers)
    if first < count:
        known = {n: found[n] for n in layers}
        rest = bout.affordable(worst(known, bout.base), budget, first)
        bout.planned = len(layers) + len(rest)
    later = bout.run(range(first, count), rest, progress) if first < count else {}
    figures = {
        n: Figures(
            found[n],
            found[n] if first == count else added(found[n], later[n]) if n in later else None,
        )
        for n in layers
    }
    size = sum(b.size for b in bout.feeds.batches[:first])
    samples = bout.feeds.samples
    return Measured(
        figures,
        bout.base,
        bout.macs,
        size,
        samples,
        bout.passes,
        bout.node_passes,
        bout.jury,
    )


@dataclass(slots=True, eq=False)
class _Bout:
    """One question on its way to an answer."""

    question: Question
    feeds: Feeds
    jury: Jury
    journal: Journal
    memory: int
    runtime: Runtime
    whole: Whole
    _key: str
    work: Work
    workers: Workers | None = None
    _group: range = range(1)
    done: int = 0
    planned: int = 0
    base: Sums = field(default_factory=dict)
    macs: dict[str, float] = field(default_factory=dict)
    _shares: dict[str, float] = field(default_factory=dict)
    _pass: float = 0.0
    _nodes: int = 0

    @classmethod
    def of(
        cls,
        question: Question,
        feeds: Feeds,
        metric: RankedBy,
        journal: Journal,
        memory: int,
        runtime: Runtime,
    ) -> _Bout:
        """Run the model on the first feed: what it takes, and what each part of it costs."""
        whole, feeds = _opened(question, feeds, memory, runtime)
        truth = _truth(question, whole, [feeds.batches[0].feeds], runtime)
        jury = Jury.of(question.model, truth, metric, rows=feeds.rows)
        parts = [repr((n, p)) for n, parts in jury.parts.items() for p in parts]
        own = metric.name if metric.function is not None else ""
        key = content_key([digest(question.base), digest(question.model), own, *parts], {})
        bout = cls(question, feeds, jury, journal, memory, runtime, whole, key, whole.work)
        size = feeds.batches[0].size
        total = _cost(whole.work)
        bout._pass = total * feeds.samples / size
        bout._nodes = whole.work.nodes * len(feeds.batches)
        for name in question.layers:
            bout.macs[name] = whole.macs_of(name) / size
            nodes = whole.behind(name)
            macs = sum(whole.macs_of(n.name or "") for n in nodes)
            share = macs / whole.work.macs if whole.work.macs else 0.0
            bout._shares[name] = max(share, len(nodes) / whole.work.nodes)
        return bout

    @property
    def passes(self) -> float:
        """Work so far, in passes of all samples through the model."""
        return _cost(self.work) / self._pass

    @property
    def node_passes(self) -> float:
        """The same, counted in nodes."""
        return self.work.nodes / self._nodes

    @property
    def _runs(self) -> int:
        """Passes that are made whatever the layers are: the model, and the float model where that is another."""
        return 1 if self.question.base is self.question.model else 2

    def is_enough(self, budget: float | None) -> bool:
        """Whether all layers can be measured on all samples."""
        if budget is None:
            return True
        return self._runs + sum(self._shares.values()) <= budget * len(self.question.layers)

    def affordable(self, worst: Sequence[str], budget: float | None, first: int) -> list[str]:
        """Return the layers that are measured on the rest of the samples, one at the least."""
        early = sum(b.size for b in self.feeds.batches[:first]) / self.feeds.samples
        left = (budget or 0.0) * len(worst) - self._runs - early * sum(self._shares.values())
        found: list[str] = []
        for layer in worst:
            cost = (1 - early) * self._shares[layer]
            if cost <= left or not found:
                found.append(layer)
                left -= cost
        return [n for n in self.question.layers if n in found]

    def run(self, feeds: range, layers: Sequence[str], progress: Progress) -> dict[str, Sums]:
        """Measure layers on some feeds."""
        found: dict[str, Sums] = {}
        start = self.done
        groups = list(self._groups(feeds))
        for i, group in enumerate(groups):
            self._open(group)
            truth = self._truth(group)
            self._ahead(layers, group)
            for j, layer in enumerate(layers):
                sums = self._layer(layer, group, truth)
                found[layer] = added(found[layer], sums) if layer in found else sums
                step = (i * len(layers) + j + 1) / len(groups)
                self.done = start + math.floor(step)
                progress.step(self.done, self.planned)
        return found

    def _groups(self, feeds: range) -> Iterator[range]:
        each = max(1, self.whole.bytes // max(1, len(self.whole.values)))
        size = max(1, self.memory // each)
        for start in range(feeds.start, feeds.stop, size):
            yield range(start, min(feeds.stop, start + size))

    def _open(self, group: range) -> None:
        if group != self._group:
            self._group = group
            self.whole = self.whole.on([self.feeds.batches[i].feeds for i in group])
            self.work += self.whole.work

    def _truth(self, group: range) -> list[dict[str, Array]]:
        feeds = [self.feeds.batches[i].feeds for i in group]
        truth = _truth(self.question, self.whole, feeds, self.runtime)
        if self._runs > 1:
            self.work += self.whole.work
        for feed, right, mine in zip(group, truth, self.whole.reference(), strict=True):
            sums = self.jury.sums(right, mine, self.feeds.batches[feed].size)
            self.base = added(self.base, sums) if self.base else sums
        return truth

    def _ahead(self, layers: Sequence[str], group: range) -> None:
        """Let workers measure what the journal does not have, and write it there."""
        if self.workers is None or self.question.base is not self.question.model:
            return
        keys = {layer: self._keys(layer, group) for layer in layers}
        missing = {
            n: tuple(i for i, k in enumerate(own) if self.journal.get(k) is None)
            for n, own in keys.items()
        }
        tasks = [(n, feeds) for n, feeds in missing.items() if feeds]
        batches = [self.feeds.batches[i] for i in group]
        runtime = Runtime(self.runtime.provider, self.runtime.threads or self.workers.threads)
        feeds, sizes = [b.feeds for b in batches], [b.size for b in batches]
        given = Group.of(self.whole, self.question.reading, feeds, sizes, self.jury, runtime)
        if given is None or not tasks:
            return
        for layer, sums in divide(given, tasks, self.workers).items():
            for i, found in zip(missing[layer], sums, strict=True):
                self.journal.put(keys[layer][i], layer, group[i], found)
            nodes = self.whole.behind(layer)
            macs = sum(self.whole.macs_of(n.name or "") for n in nodes)
            self._worked(Work(len(nodes) * len(group), macs), group, missing[layer])

    def _keys(self, layer: str, group: range) -> list[str]:
        """Return the keys of a layer's figures on each of a group of feeds."""
        reading = self.question.reading
        constants = reading.constants(layer)
        means = [self._key, layer, reading.identity(layer)]
        return [content_key(means, {**constants, **self.feeds.batches[i].feeds}) for i in group]

    def _worked(self, work: Work, group: range, missing: Sequence[int]) -> None:
        """Count the work of a layer on some feeds of a group, from that on all of them."""
        done = sum(self.feeds.batches[group[i]].size for i in missing)
        share = done / sum(self.feeds.batches[i].size for i in group)
        self.work += Work(work.nodes * len(missing) // len(group), round(work.macs * share))

    def _layer(self, layer: str, group: range, truth: Sequence[Mapping[str, Array]]) -> Sums:
        """Measure one layer on a group of feeds; what is in the journal is not run."""
        question, keys = self.question, self._keys(layer, group)
        missing = [i for i, key in enumerate(keys) if not self.journal.has(key)]
        if missing:
            outputs, work = one_layer(self.whole, question.reading, layer, missing)
            for i, out in zip(missing, outputs, strict=True):
                size = self.feeds.batches[group[i]].size
                whole = {**self.whole.reference()[i], **out}
                self.journal.put(keys[i], layer, group[i], self.jury.sums(truth[i], whole, size))
            self._worked(work, group, missing)
        found: Sums = {}
        for key in keys:
            sums = self.journal.get(key)
            assert sums is not None
            found = added(found, sums) if found else sums
        return found


def _opened(
    question: Question, feeds: Feeds, memory: int, runtime: Runtime
) -> tuple[Whole, Feeds]:
    """Open the model; cut feeds whose activations do not fit the memory limit, do not where it insists on its batches."""

    def first(some: Feeds) -> Whole:
        first_feed = [some.batches[0].feeds]
        return Whole.of(question.base, question.outputs, first_feed, runtime=runtime)

    try:
        whole = first(feeds)
    except ModelError:
        if not feeds.rows:
            raise
        feeds = feeds.uncut
        return first(feeds), feeds
    rows = feeds.batches[0].size
    if whole.bytes <= memory or not feeds.rows or rows == 1:
        return whole, feeds
    feeds = feeds.cut(max(1, rows * memory // whole.bytes))
    return whole.on([feeds.batches[0].feeds]), feeds


def _truth(
    question: Question,
    whole: Whole,
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> list[dict[str, Array]]:
    """Return what the float model answers."""
    if question.base is question.model:
        return whole.reference()
    model = expose(question.model, question.outputs)
    return run(model, feeds, integers=False, runtime=runtime)


def _cost(work: Work) -> int:
    """Return multiplications, or nodes where a model has none."""
    return max(1, work.macs or work.nodes)
