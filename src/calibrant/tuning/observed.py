"""What was seen of models on all data: a tensor that was looked at once is not looked at again.

The samples of the probe were run when the recipe was decided; what was seen of them then is put together with what is seen
of the rest. Workers share the rest among them, and a shelf keeps it from one process to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibrant.data.batch import Batch
from calibrant.data.digests import data_digest, text_digest
from calibrant.errors import DataError
from calibrant.findings import DataFindings
from calibrant.graph.digest import digest
from calibrant.progress import Progress
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.observe import Hearing, observe
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.shards import Shard, observe_shards
from calibrant.runtime.workers import Workers
from calibrant.stats import TensorStats
from calibrant.tuning.folds import Folds
from calibrant.tuning.samples import Samples
from calibrant.tuning.shelf import Shelf
from calibrant.tuning.work import Work

__all__ = ["Observed"]


class Observed:
    """Statistics of all data, by model and tensor.

    Args:
        runtime: Where models run.
        progress: Told what is going on.
        work: Told what was run.
        workers: Who looks at the data, where it can be read by index; None for this process alone.
        shelf: Where statistics stay from one process to the next; None for nowhere.
    """

    def __init__(
        self,
        runtime: Runtime,
        progress: Progress,
        work: Work,
        workers: Workers | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """Start with nothing seen."""
        self.runtime, self.progress, self.work = runtime, progress, work
        self.workers, self.shelf = workers, shelf
        self._seen: dict[object, _Seen] = {}
        self._named: dict[Samples, str] = {}

    def statistics(
        self,
        model: ir.Model,
        tensors: Sequence[str],
        axes: Mapping[str, Sequence[int]],
        samples: Samples,
        *,
        exact: bool,
        folds: Folds | None = None,
    ) -> tuple[dict[str, TensorStats], DataFindings]:
        """Return the statistics of all data; a tensor that was seen before is not looked at again.

        Args:
            model: The model that is observed.
            tensors: Tensors to look at.
            axes: Tensor -> axes along which each channel is observed by itself.
            samples: The data.
            exact: Keep raw values.
            folds: What was seen of the probe: these samples are not run again.
        """
        seen = self._seen.setdefault((model, samples, exact), _Seen())
        key = self._key(model, samples, exact=exact)
        if key and not seen.data.samples:
            self._take_down(seen, key, samples)
        missing = [t for t in tensors if not seen.has(t, axes.get(t, ()))]
        if missing or not seen.data.samples:
            if folds is not None and folds.hold(missing, axes):
                found, data = self._behind_folds(folds, samples)
            else:
                found, data = self._run(model, missing, axes, samples.all(), samples, exact=exact)
            seen.add(found, axes, data)
            if key and self.shelf is not None:
                self.shelf.put(seen.tensors, *key)
        return {t: seen.tensors[t] for t in tensors}, seen.data

    def _key(self, model: ir.Model, samples: Samples, *, exact: bool) -> tuple[str, ...]:
        """Return what names statistics on the shelf; empty where there is none, or samples cannot be named."""
        named = isinstance(samples.data, (str, Path, Mapping, np.ndarray))
        if self.shelf is None or not named or not samples.source.by_index:
            return ()
        if samples not in self._named:
            parts = [samples.data, *([samples.preprocess] if samples.preprocess else [])]
            self._named[samples] = text_digest(*(data_digest(p) for p in parts))
        many, keep = str(samples.total), "exact" if exact else "counts"
        return digest(model), self._named[samples], many, keep, self.runtime.provider

    def _take_down(self, seen: _Seen, key: tuple[str, ...], samples: Samples) -> None:
        """Add what the shelf holds of a model and these samples."""
        assert self.shelf is not None
        found = self.shelf.take(*key)
        if found and samples.total:
            axes = {t: tuple(c.axis for c in s.by_channel) for t, s in found.items()}
            size = samples.source.batch_size or 1
            data = DataFindings(samples.total, -(-samples.total // size), samples.notes)
            seen.add(found, axes, data)

    def _behind_folds(
        self, folds: Folds, samples: Samples
    ) -> tuple[dict[str, TensorStats], DataFindings]:
        """Look at the data behind what was seen of the probe, and put both together."""
        if folds.hearing is None or self.workers is not None:
            folds.probe.answer()  # nobody else would find outputs that are not finite
        if folds.halves is None:
            self.work.whole(folds.see(len(folds.probe.small)))
        count = min(folds.feeds, len(folds.probe.small))
        size = sum(b.size for b in folds.probe.small[:count])
        self.progress.step(size, samples.total)
        behind = samples.after(folds.probe.samples)
        rest = itertools.chain(folds.probe.small[count:], behind)
        first = list(itertools.islice(rest, 1))
        if not first or not folds.tensors:
            left = sum(b.size for b in itertools.chain(first, rest))
            return folds.whole(), DataFindings(
                size + left, _batches(samples, count), samples.notes
            )
        more, data = self._run(
            folds.model,
            folds.tensors,
            folds.axes,
            itertools.chain(first, rest),
            samples,
            exact=folds.exact,
            done=size,
            start=size,
            hearing=folds.hearing,
        )
        many = _batches(samples, data.batches + count)
        return folds.whole(more), replace(data, samples=data.samples + size, batches=many)

    def _run(
        self,
        model: ir.Model,
        tensors: Sequence[str],
        axes: Mapping[str, Sequence[int]],
        batches: Iterable[Batch],
        samples: Samples,
        *,
        exact: bool,
        done: int = 0,
        start: int = 0,
        hearing: Hearing | None = None,
    ) -> tuple[dict[str, TensorStats], DataFindings]:
        """Look at samples from `start` on; `batches` are these."""
        if self.workers is not None and tensors:
            return self._shards(model, tensors, axes, samples, exact=exact, done=done, start=start)
        seen = count = 0

        def counted() -> Iterator[Batch]:
            nonlocal seen, count
            for batch in batches:
                seen += batch.size
                count += 1
                yield batch

        found = observe(
            model,
            tensors,
            counted(),
            per_channel=axes,
            exact=exact,
            progress=lambda _: self.progress.step(done + seen, samples.total),
            runtime=self.runtime,
            hearing=hearing,
        )
        self.work.whole(seen)
        return found, DataFindings(seen, count, samples.notes)

    def _shards(
        self,
        model: ir.Model,
        tensors: Sequence[str],
        axes: Mapping[str, Sequence[int]],
        samples: Samples,
        *,
        exact: bool,
        done: int,
        start: int,
    ) -> tuple[dict[str, TensorStats], DataFindings]:
        """Let workers look at samples from `start` on."""
        assert self.workers is not None
        batches = samples.source
        if not batches.by_index:
            raise DataError(
                f"{batches.source} cannot be divided among workers, since it is read from its first sample on: give files, a "
                "folder, or arrays."
            )
        assert batches.samples is not None
        size = batches.batch_size or 1
        threads = self.runtime.threads or self.workers.threads
        shard = Shard(
            bytes(ir.to_proto(model).SerializeToString()),
            tuple(model_inputs(model)),
            samples.data,
            {"batch_size": size, "preprocess": samples.preprocess},
            start,
            batches.samples,
            tuple(tensors),
            {t: tuple(a) for t, a in axes.items()},
            exact,
            Runtime(self.runtime.provider, threads),
        )
        seen = done

        def told(count: int) -> None:
            nonlocal seen
            seen += count
            self.progress.step(seen, samples.total)

        found = observe_shards(shard, self.workers, told)
        looked = batches.samples - start
        self.work.whole(looked)
        return found, DataFindings(looked, -(-looked // size), samples.notes)


def _batches(samples: Samples, counted: int) -> int:
    """Return how many batches the data has; as counted, feeds of the probe among them, where it does not say."""
    return samples.source.batches if samples.source.batches is not None else counted


@dataclass(slots=True, eq=False)
class _Seen:
    """What was seen of one model on all data."""

    tensors: dict[str, TensorStats] = field(default_factory=dict)
    axes: dict[str, frozenset[int]] = field(default_factory=dict)
    data: DataFindings = field(default_factory=DataFindings)

    def has(self, tensor: str, axes: Sequence[int]) -> bool:
        return tensor in self.tensors and set(axes) <= self.axes[tensor]

    def add(
        self,
        found: Mapping[str, TensorStats],
        axes: Mapping[str, Sequence[int]],
        data: DataFindings,
    ) -> None:
        self.tensors |= found
        self.axes |= {t: frozenset(axes.get(t, ())) for t in found}
        self.data = data
