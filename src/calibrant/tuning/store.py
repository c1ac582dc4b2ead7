"""One model, its data, and all that is known of them.

Everything is kept under what it depends on, so that equal work is done once: the prepared model by what a recipe says
of its form, the probe by model and data, statistics by model and tensor (topped up where a recipe needs a tensor
more), scales by tensor, algorithm and grid, rounded weights by layer.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.analysis.probe import Probe, take_probe
from calibrant.analysis.simulate import is_light
from calibrant.choose import Known
from calibrant.graph.load import ModelLike, load, prepare
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.graph.passes.fuse_batchnorm import Folded, fuse_batchnorm
from calibrant.graph.passes.half_outputs import round_outputs
from calibrant.plan import Plan, resolve
from calibrant.plan.fixed import with_fixed
from calibrant.progress import Progress
from calibrant.recipe import Calibration, FixedInput, Recipe
from calibrant.refine.local_bias import LocalError
from calibrant.runtime.heap import collect
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.threads import with_threads
from calibrant.runtime.workers import Workers
from calibrant.tuning.folds import Folds
from calibrant.tuning.observed import Observed
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
        runtime: Where models run; once the model is known, with a number of threads where its layers are small
            (`runtime.threads`).
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
        self._given = self.runtime = runtime
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
        self.shared, self.workers = shared, workers
        self.known = Known()
        self.local: tuple[dict[Hashable, LocalError], dict[Hashable, LocalError]] = {}, {}
        self.tops: dict[tuple[ir.Model, str], npt.NDArray[np.float64]] = {}
        self.work = Work()
        self.observed = Observed(self.runtime, self.progress, self.work, workers, shelf)

    def original(self, recipe: Recipe, *, quantizers: bool = False) -> ir.Model:
        """Return the model as it was given, loaded and checked, with the inputs fixed that a recipe fixes.

        Args:
            recipe: What is wanted.
            quantizers: It may hold quantizers.
        """
        key = quantizers, recipe.fix, recipe.keep_fixed_inputs
        if key not in self._originals:
            loaded = load(self.model, quantizers=quantizers)
            if not is_light(loaded):
                collect()  # what it was read from, and what the call before left
            self._originals[key] = with_fixed(loaded, recipe)
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
        self.runtime = self.observed.runtime = with_threads(self._given, model)
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
