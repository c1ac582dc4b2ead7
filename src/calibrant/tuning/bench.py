"""One model, its data, and all that is known of them, on which any recipe is built and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from calibrant.analysis.probe import Probe, take_probe
from calibrant.data.batch import Batch
from calibrant.findings import DataFindings
from calibrant.graph.load import ModelLike, load, prepare
from calibrant.graph.opset import WIDE_OPSET, main_opset, raise_opset
from calibrant.graph.passes.fuse_batchnorm import Folded, fuse_batchnorm
from calibrant.graph.passes.half_outputs import round_outputs
from calibrant.plan import Plan, resolve
from calibrant.progress import Progress
from calibrant.recipe import Calibration, Recipe
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.observe import observe
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.stats import TensorStats
from calibrant.tuning.samples import Samples, open_samples
from calibrant.tuning.space import asks_wide_types

__all__ = ["Bench", "Prepared"]


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


class Bench:
    """A model and its data.

    Args:
        model: Path of an ONNX file, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        data: Calibration data, as `calibrant.quantize` takes it.
        runtime: Where models run.
        batch_size: Samples in a batch; over the recipes'.
        batch_num: Batches to use; over the recipes'.
        preprocess: File that says how raw samples become inputs.
        progress: Told what is going on.
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
    ) -> None:
        """Keep both; nothing is read yet."""
        self.model, self.data = model, data
        self.runtime = runtime
        self.progress = progress if progress is not None else Progress()
        self._reading: dict[str, Any] = {
            "batch_size": batch_size,
            "batch_num": batch_num,
            "preprocess": preprocess,
        }
        self._originals: dict[bool, ir.Model] = {}
        self._samples: dict[Calibration, Samples] = {}

    def original(self, *, quantizers: bool = False) -> ir.Model:
        """Return the model as it was given, loaded and checked.

        Args:
            quantizers: It may hold quantizers.
        """
        if quantizers not in self._originals:
            self._originals[quantizers] = load(self.model, quantizers=quantizers)
        return self._originals[quantizers]

    def samples(self, recipe: Recipe, *, quantizers: bool = False) -> Samples:
        """Return the data of a recipe."""
        key = recipe.calibration
        if key not in self._samples:
            inputs = model_inputs(self.original(quantizers=quantizers))
            self._samples[key] = open_samples(inputs, self.data, recipe, **self._reading)
        return self._samples[key]

    def prepared(self, recipe: Recipe) -> Prepared:
        """Bring the model into shape for a recipe, and decide where quantizers stand."""
        original = self.original()
        found = _shaped(original, original, recipe)
        wide = found.plan.needs_wide_types or asks_wide_types(recipe)
        if wide and main_opset(found.model) < WIDE_OPSET:
            found = _shaped(raise_opset(original.clone(), WIDE_OPSET), original, recipe)
        return found

    def probe(self, model: ir.Model, samples: Samples, count: int) -> Probe:
        """Take the first samples, and what a float model answers to them."""
        return take_probe(model, samples.first(), count, self.runtime)

    def observe(
        self,
        model: ir.Model,
        tensors: Sequence[str],
        axes: Mapping[str, Sequence[int]],
        samples: Samples,
        *,
        exact: bool,
    ) -> tuple[dict[str, TensorStats], DataFindings]:
        """Run a float model over all data once.

        Args:
            model: The float model.
            tensors: Tensors to look at.
            axes: Tensor -> axes along which each channel is observed by itself.
            samples: The data.
            exact: Keep raw values.
        """
        seen = batches = 0

        def counted() -> Iterator[Batch]:
            nonlocal seen, batches
            for batch in samples.all():
                seen += batch.size
                batches += 1
                yield batch

        statistics = observe(
            model,
            tensors,
            counted(),
            per_channel=axes,
            exact=exact,
            progress=lambda _: self.progress.step(seen, samples.total),
            runtime=self.runtime,
        )
        return statistics, DataFindings(seen, batches, samples.notes)


def _shaped(source: ir.Model, original: ir.Model, recipe: Recipe) -> Prepared:
    model, fusion = prepare(source), recipe.fusion
    folded: list[Folded] = []
    if fusion.batch_norm:
        folded = fuse_batchnorm(model, skip=fusion.skip, origin=fusion.origin)
    if recipe.output_precision == "float16":
        round_outputs(model)
    raised = main_opset(model) != main_opset(original)
    return Prepared(model, resolve(recipe, model), tuple(folded), raised)
