"""One model, its data, and all that is known of them.

Everything is kept under what it depends on, so that equal work is done once: the prepared model by what a recipe says
of its form, the probe by model and data, statistics by model and tensor (topped up where a recipe needs a tensor
more), scales by tensor, algorithm and grid, rounded weights by layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.probe import Probe, take_probe
from calibrant.choose import Known
from calibrant.data.batch import Batch
from calibrant.data.digests import data_digest, text_digest
from calibrant.errors import DataError
from calibrant.findings import DataFindings
from calibrant.graph.digest import digest
from calibrant.graph.load import ModelLike, load, prepare
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.graph.passes.fuse_batchnorm import Folded, fuse_batchnorm
from calibrant.graph.passes.half_outputs import round_outputs
from calibrant.plan import Plan, resolve
from calibrant.plan.fixed import with_fixed
from calibrant.progress import Progress
from calibrant.recipe import Calibration, FixedInput, Recipe
from calibrant.refine.local_bias import LocalError
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.observe import Hearing, observe
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.shards import Shard, observe_shards
from calibrant.runtime.workers import Workers
from calibrant.stats import TensorStats
from calibrant.tuning.folds import Folds, merged
from calibrant.tuning.samples import Samples, open_samples
from calibrant.tuning.shelf import Shelf
from calibrant.tuning.space import asks_wide_types
from calibrant.tuning.work import Work

__all__ = ["Prepared", "Store"]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model brought into shape for a recipe.

    Args:
        model: The float model, prepared and folded.
        plan: Where quantizers stand in it.
        folded: Batch normalizations.
        raised: Its opset is another one than that of the model as given.
    """

    model: ir.Model
    plan: Plan
    folded: tuple[Folded, ...]
    raised: bool


class Store:
    """A model, its data, and what is known of them.

    Args:
        model: Path of an ONNX file, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        data: Calibration data, as `calibrant.quantize` takes it.
        runtime: Where models run.
        batch_size: Samples in a batch; over the recipes'.
        batch_num: Batches to use; over the recipes'.
        preprocess: File that says how raw samples become inputs.
        progress: Told what is going on.
        shared: Several recipes will be built: what they have in common is kept, and what they leave open is decided
            once for recipes that differ in widths alone.
        workers: Who looks at the data, where it can be read by index; None for this process alone.
        factors: Layer -> what balances its input, channel by channel, where that is known already.
        shelf: Where statistics of such data stay from one process to the next; None for nowhere.
    """

    def __init__(
        self,
        model: ModelLike,
        data: Any = None,
        *,
        runtime: Runtime = CPU,
        batch_size: int | None = None,
        batch_num: int | None = None,
        preprocess: str | Path | None = None,
        progress: Progress | None = None,
        shared: bool = False,
        workers: Workers | None = None,
        factors: Mapping[str, npt.NDArray[np.float32]] | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """Keep both; nothing is read yet."""
        self.factors = factors
        self.model, self.data = model, data
        self.runtime = runtime
        self.progress = progress if progress is not None else Progress()
        self._reading: dict[str, Any] = {
            "batch_size": batch_size,
            "batch_num": batch_num,
            "preprocess": preprocess,
        }
        self._originals: dict[tuple[bool, tuple[FixedInput, ...], bool], ir.Model] = {}
        self._samples: dict[tuple[Calibration, tuple[FixedInput, ...]], Samples] = {}
        self._prepared: dict[object, tuple[ir.Model, tuple[Folded, ...]]] = {}
        self._checked: set[tuple[str, ir.Model]] = set()
        self._raised: dict[ir.Model, ir.Model] = {}
        self._probes: dict[object, Probe] = {}
        self._seen: dict[object, _Seen] = {}
        self.shared = shared
        self.workers = workers
        self.shelf = shelf
        self._named: dict[Samples, str] = {}
        self.known = Known()
        self.local: tuple[dict[Hashable, LocalError], dict[Hashable, LocalError]] = {}, {}
        self.tops: dict[tuple[ir.Model, str], npt.NDArray[np.float64]] = {}
        self.work = Work()

    def original(self, recipe: Recipe, *, quantizers: bool = False) -> ir.Model:
        """Return the model as it was given, loaded and checked, with the inputs fixed that a recipe fixes.

        Args:
            recipe: What is wanted.
            quantizers: It may hold quantizers.
        """
        key = quantizers, recipe.fix, recipe.keep_fixed_inputs
        if key not in self._originals:
            self._originals[key] = with_fixed(load(self.model, quantizers=quantizers), recipe)
        return self._originals[key]

    def samples(self, recipe: Recipe, *, quantizers: bool = False) -> Samples:
        """Return the data of a recipe."""
        key = recipe.calibration, recipe.fix
        if key not in self._samples:
            inputs = model_inputs(self.original(recipe, quantizers=quantizers))
            self._samples[key] = open_samples(inputs, self.data, recipe, **self._reading)
        return self._samples[key]

    def prepared(self, recipe: Recipe) -> Prepared:
        """Bring the model into shape for a recipe, and decide where quantizers stand."""
        found = self._shaped(recipe, wide=False)
        wide = found.plan.needs_wide_types or asks_wide_types(recipe)
        if wide and main_opset(found.model) < WIDE_OPSET:
            found = self._shaped(recipe, wide=True)
        return found

    def _shaped(self, recipe: Recipe, *, wide: bool) -> Prepared:
        original, fusion = self.original(recipe), recipe.fusion
        key = original, fusion, recipe.output_precision == "float16", wide
        if key not in self._prepared:
            source = raise_opset(original.clone(), WIDE_OPSET) if wide else original
            model = prepare(source)
            folded: list[Folded] = []
            if fusion.batch_norm:
                folded = fuse_batchnorm(model, skip=fusion.skip, check=False)
            if recipe.output_precision == "float16":
                round_outputs(model)
            self._prepared[key] = model, tuple(folded)
        model, done = self._prepared[key]
        raised = main_opset(model) != main_opset(original)
        return Prepared(model, resolve(recipe, model), done, raised)

    def first_time(self, what: str, model: ir.Model) -> bool:
        """Whether something was not checked of a model yet; from now on it was."""
        known = (what, model) in self._checked
        self._checked.add((what, model))
        return not known

    def at_opset_of(self, model: ir.Model, other: ir.Model) -> ir.Model:
        """Return a form of the model at the opset of another one that is newer."""
        if main_opset(model) >= main_opset(other):
            return model
        if model not in self._raised:
            self._raised[model] = raise_opset(model.clone(), main_opset(other))
        return self._raised[model]

    def probe(self, model: ir.Model, samples: Samples, count: int) -> Probe:
        """Take the first samples, and what a float model answers to them."""
        key = model, samples, count
        if key not in self._probes:
            self._probes[key] = take_probe(
                model, samples.first(), count, self.runtime, self.work.whole
            )
        return self._probes[key]

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
                found, data = self._all(model, missing, axes, samples, exact=exact)
            seen.add(found, axes, data)
            if key and self.shelf is not None:
                self.shelf.put(seen.tensors, *key)
        return {t: seen.tensors[t] for t in tensors}, seen.data

    def keep_tops(self, folds: Folds, model: ir.Model, axes: Mapping[str, int]) -> None:
        """Keep the largest value of each channel of tensors, where it was seen.

        Args:
            folds: What was seen.
            model: The model that is asked about.
            axes: Tensors and their channel axes.
        """
        for tensor, axis in axes.items():
            ends = folds.ends_of(tensor, axis) if tensor in folds.tops else None
            if ends is not None and (model, tensor) not in self.tops:
                self.tops[model, tensor] = ends.tops(tensor, axis)

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
        found = folds.whole or {}
        behind = samples.after(folds.probe.samples)
        rest = itertools.chain(folds.probe.small[count:], behind)
        first = list(itertools.islice(rest, 1))
        if not first or not folds.tensors:
            left = sum(b.size for b in itertools.chain(first, rest))
            return found, DataFindings(size + left, _batches(samples, count), samples.notes)
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
        return merged(found, more), replace(data, samples=data.samples + size, batches=many)

    def _all(
        self,
        model: ir.Model,
        tensors: Sequence[str],
        axes: Mapping[str, Sequence[int]],
        samples: Samples,
        *,
        exact: bool,
    ) -> tuple[dict[str, TensorStats], DataFindings]:
        return self._run(model, tensors, axes, samples.all(), samples, exact=exact, start=0)

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
