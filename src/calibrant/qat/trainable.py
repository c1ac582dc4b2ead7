"""A network with its quantizers, ready to be trained, and the way back to files.

    prepare  ─► Trainable ─► .module trains in a loop of your own, or in `fit`
                          ─► .convert() ─► QuantizedModel, as from `calibrant.quantize`

Calibration comes first, always: training begins with the best ranges that calibration finds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import Tensor, nn
from torch.fx import GraphModule

from calibrant.analysis.probe import Probe
from calibrant.dialects.asked import RecipeLike, asked
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.graph.modules import as_model
from calibrant.pipeline import finished
from calibrant.plan import resolve
from calibrant.plan.folding import folded_scales
from calibrant.plan.loaded import keeps_scales
from calibrant.plan.parameters import LayerParameters, Parameters
from calibrant.progress import Callback, Progress
from calibrant.qat.agreement import Agreement, agreement_of, outputs_of
from calibrant.qat.build import Trained, build_module
from calibrant.qat.giving_back import put_back
from calibrant.qat.graph import explained, to_torch
from calibrant.qat.integers import IntegerSums
from calibrant.qat.learned import with_learned
from calibrant.qat.normalization import with_statistics
from calibrant.qat.rates import float_groups
from calibrant.qat.recipe import asked_of_training, for_calibration
from calibrant.qat.statistics import LiveStatistics, as_inputs, reestimated
from calibrant.recipe import Recipe
from calibrant.results import QuantizedModel
from calibrant.runtime.runtime import Runtime
from calibrant.solution import Solution
from calibrant.tuning.lifted import lifted
from calibrant.tuning.road import solve
from calibrant.tuning.solved import Solved
from calibrant.tuning.store import Store

__all__ = ["Trainable", "prepare", "trainable"]

_log = logging.getLogger(__name__)

#: Feeds of the probe that the module and the deployed model are compared on.
HELD_FEEDS = 16


@dataclass(slots=True, eq=False)
class Trainable:
    """A network that trains with its quantizers.

    Args:
        calibrated: What calibration alone gives: the result that training has to beat.
        trained: The module, and which part of it is what.
        teacher: The float network as a module; it is not trained.
        probe: Samples that the deployed model is measured and checked on.
        runtime: Where models run.
        source: The model as it was given.
        progress: Told what is going on.
        statistics: What stands behind layers whose statistics are live, or were measured anew.
    """

    calibrated: QuantizedModel
    trained: Trained
    teacher: GraphModule
    probe: Probe
    runtime: Runtime
    source: Any
    progress: Progress = field(default_factory=Progress)
    statistics: list[LiveStatistics] = field(default_factory=list)

    @property
    def module(self) -> GraphModule:
        """The network with its quantizers; it is called with the inputs of the model in their order."""
        return self.trained.module

    @property
    def solution(self) -> Solution:
        """What calibration decided."""
        return self.calibrated.solution

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in the order in which the module takes them."""
        graph = self.solution.model.graph
        return tuple(v.name or "" for v in graph.inputs if v.name not in graph.initializers)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in the order in which the module returns them."""
        return tuple(v.name or "" for v in self.solution.model.graph.outputs)

    def parameter_groups(
        self, lr: float = 1e-3, *, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer, in groups.

        | Group | Holds | Rate | Decay |
        |---|---|---|---|
        | `weights` | weights over their size | lr | as asked |
        | `offsets` | biases of layers with quantizers, gains of channels | lr | none |
        | `scales` | scales (as logarithms) and ranges (as shares) | lr | none |
        | `learned.0`, … | what has no quantizer, each by itself | lr times its size | of matrices and kernels, as asked |

        All are shares of what they were at the start, so one rate fits a whole network.

        Args:
            lr: Learning rate.
            weight_decay: Decay of the weights.
        """
        groups: dict[str, list[nn.Parameter]] = {"weights": [], "offsets": [], "scales": []}
        plain: list[nn.Parameter] = []
        for name, p in self.module.named_parameters():
            group = _group(name)
            (plain if group == "learned" else groups[group]).append(p)
        quantized: list[dict[str, Any]] = [
            {
                "params": ps,
                "lr": lr,
                "weight_decay": weight_decay if n == "weights" else 0.0,
                "name": n,
            }
            for n, ps in groups.items()
            if ps
        ]
        return quantized + float_groups(plain, lr, weight_decay)

    def live_bn(self) -> None:
        """Normalize what layers answer with the statistics of each batch, as batch normalization does in training.

        Without it statistics are those of the file. Short runs do better so; live ones need some epochs, and
        `reestimate_bn` before the end. Which layers: `qat.normalization`.

        Raises:
            ConfigValueError: No layer of the model can have them.
        """
        for s in self._with_statistics():
            s.live = True

    def reestimate_bn(self, loader: Iterable[Any], batches: int = 100) -> int:
        """Measure the statistics of batch normalization anew, and take them into scales and biases.

        Args:
            loader: Batches: what the module is called with, or a sequence that begins with it (labels may follow).
            batches: So many of them at most.

        Returns:
            How many batches there were.
        """
        live = self._with_statistics()
        device = next(self.module.parameters()).device
        inputs = as_inputs(islice(loader, batches), len(self.inputs), device)
        return reestimated(self.module, live, inputs)

    def _with_statistics(self) -> list[LiveStatistics]:
        """Return what stands behind layers for their statistics, put there on first use."""
        if not self.statistics:
            device = next(self.module.parameters()).device
            feeds = self.probe.feeds
            batches = [[x.to(device) for x in _tensors(f, self.inputs)] for f in feeds]
            self.statistics += with_statistics(
                self.trained, self.teacher.to(device), self.solution.original, batches
            )
        return self.statistics

    def freeze(self, *, bn: bool = False, ranges: bool = False) -> None:
        """Stop parts from learning.

        Args:
            bn: Statistics of batches where they are live (they go into scales and biases), gains of channels, and of what has no
                quantizer the vectors: biases, and normalizations that stand in the graph.
            ranges: Ranges of activations and scales of weights.
        """
        for s in self.statistics if bn else ():
            s.settle()
            s.live = False
        for name, p in self.module.named_parameters():
            group = _group(name)
            vector = group == "offsets" or (group == "learned" and p.ndim == 1)
            if (bn and vector) or (ranges and group == "scales"):
                p.requires_grad_(False)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the module, as torch has it."""
        found: dict[str, Tensor] = self.module.state_dict()
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state of a module of the same network and recipe."""
        self.module.load_state_dict(dict(state))

    def to_solution(self) -> Solution:
        """Return what was trained as a solution: the float model with trained weights, and all parameters."""
        solution, trained = self.solution, self.trained
        plan = solution.plan
        for s in self.statistics:
            s.settle()
        activations = {d.id: trained.activation(d.id).params() for d in plan.activations}
        layers = {}
        for w in plan.weights:
            p, values = trained.weight(w.layer).params()
            bias = trained.bias(w.layer).floats() if w.layer in trained.biases else None
            layers[w.layer] = LayerParameters(p, values, bias)
        params = Parameters(activations, layers, solution.params.balance)
        return replace(solution, model=self._float_model(), params=params, source="training")

    def _float_model(self) -> ir.Model:
        """Return the float model with the weights that were trained."""
        model = self.solution.model.clone()
        constants = model.graph.initializers
        plan, given = self.solution.plan, self.solution.params.activations
        for w in plan.weights:
            folded = folded_scales(self.solution.model, plan, w, given)
            floats = self.trained.weight(w.layer).floats()
            _set(
                constants[w.weight],
                floats if folded is None else (floats / folded).astype(np.float32),
            )
            if w.bias is not None and w.layer in self.trained.biases:
                _set(constants[w.bias], self.trained.bias(w.layer).floats())
        with_learned(model, self.module)
        return model

    def convert(
        self,
        *,
        into: nn.Module | None = None,
        latency: bool = False,
        check: bool | Literal["integers"] = True,
        measure: bool = False,
    ) -> QuantizedModel:
        """Return the trained network as files have it, compared with the module on held samples.

        Args:
            into: Your module, the one that was prepared: the trained weights are put back into it, under the names of
                its parameters, so that it computes what the trained float model does.
            latency: Time one inference of both models.
            check: Refuse a model that is not what was trained. `integers` compares both with integer sums, too, as devices
                compute them, and asks as much of that.
            measure: Say how far both agree with integer sums, whatever `check` asks for.

        Raises:
            ModelError: The deployed model does not compute what the module does.
            ConfigValueError: `check` is another word; or `into` is another module, or holds its weights in a way that they cannot be put back into;
                it is left as it was.
        """
        if check not in (True, False, "integers"):
            raise ConfigValueError(f"check is {check!r}; it is True, False or 'integers'.")
        start = time.perf_counter()
        findings = replace(self.calibrated.findings, trials=(), nodes=(), distances=())
        result = finished(
            self.source,
            self.to_solution(),
            findings,
            self.probe,
            self.progress,
            self.runtime,
            statistics=self.calibrated.statistics,
            latency=latency,
            start=start,
        )
        whole = check == "integers"
        agreement = self.agreement(result, integers=whole or measure)
        if check:
            agreement.check(integers=whole)
        if into is not None:
            put_back(into, result.float_model, self.probe.feeds[0], self.runtime)
        training = {
            "agreement": {
                "samples": agreement.samples,
                "sqnr_db": agreement.sqnr_db,
                "top1": agreement.top1,
                "typical_db": agreement.typical_db,
                "float32_db": agreement.float32_db,
                "integers_db": agreement.integers_db,
                "integers_top1": agreement.integers_top1,
                "integers_left_out": list(agreement.integers_left_out),
            }
        }
        return replace(result, summary={**result.summary, "training": training})

    def agreement(
        self, result: QuantizedModel, feeds: Sequence[Any] = (), *, integers: bool = False
    ) -> Agreement:
        """Say how far the module and a deployed model agree.

        Args:
            result: What `convert` made.
            feeds: Samples; those of the probe where there are none.
            integers: Compare both with integer sums, too.
        """
        held = list(feeds) or self.probe.feeds[:HELD_FEEDS]
        return agreement_of(
            self.module,
            result.deploy,
            self.inputs,
            held,
            self.runtime,
            integers=integers,
            layers=[w.layer for w in self.solution.plan.weights],
        )

    def integers(self, feeds: Sequence[Any] = ()) -> list[dict[str, npt.NDArray[Any]]]:
        """Return what the network answers on a device with integer accumulators, sums exact whatever their order.

        Layers that add up channels of different scales have no such sums: they compute in floats, and a warning of this module's
        logger names them (so does `convert(measure=True)`, in `summary["training"]["agreement"]["integers_left_out"]`).

        Args:
            feeds: Samples: input -> array; those of the probe where there are none.
        """
        held = list(feeds) or self.probe.feeds[:HELD_FEEDS]
        sums = IntegerSums(self.module)
        found = outputs_of(self.module, self.inputs, self.outputs, held, by=lambda _: sums)
        left = {w.layer for w in self.solution.plan.weights} - sums.done
        if left:
            _log.warning("Without integer sums: %s.", ", ".join(sorted(left)))
        return found


def prepare(
    model: ModelLike,
    data: Any,
    recipe: RecipeLike | None = None,
    *,
    example: Any = None,
    target: str | Path | None = None,
    fix: Mapping[str, Any] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: str | Path | None = None,
    progress: Callback | None = None,
) -> Trainable:
    """Calibrate a float model, and return it with its quantizers as a network that trains.

    Args:
        model: Path of an ONNX file, an `onnx.ModelProto`, an `onnx_ir.Model`, or a module of torch, which is
            exported: its nodes have the names of your modules. It is not changed.
        data: Calibration data, as `calibrant.quantize` takes it: some 100 samples are enough.
        recipe: What is wanted: any recipe, one for training (AMCT's retrain configurations) or not.
        example: What a module of torch is called with: a tensor, a sequence of tensors, or a mapping by argument.
            None takes it from data that has arrays by the names of its arguments.
        target: What the model will run on, over the recipe's.
        fix: Inputs of the model that are the same in every use.
        provider: Execution provider for runs of the deployed model.
        threads: Threads inside an operator, there.
        batch_size: Samples in a batch of calibration.
        batch_num: Batches of calibration.
        preprocess: File that says how raw samples become inputs.
        progress: Called with a stage, what is done of it, and how much there is.

    Raises:
        ModelError: The model cannot be read, checked or quantized.
        DataError: The data is empty, does not fit the inputs, or is not finite.
        ConfigError: The recipe names what the model does not have, or asks for what does not exist.
        UnsupportedError: A node or a setting that cannot be trained.
    """
    start = time.perf_counter()
    model = as_model(model, example, data)
    wanted = asked(recipe, target, fix)
    calibration = for_calibration(wanted)
    store = Store(
        model,
        data,
        runtime=Runtime(provider, threads),
        batch_size=batch_size,
        batch_num=batch_num,
        preprocess=preprocess,
        progress=Progress(progress),
    )
    solved = lifted(store, calibration) if keeps_scales(calibration) else solve(store, calibration)
    return trainable(model, solved, wanted, store.progress, store.runtime, start=start)


def trainable(
    source: ModelLike,
    solved: Solved,
    wanted: Recipe,
    progress: Progress,
    runtime: Runtime,
    *,
    start: float,
) -> Trainable:
    """Return a network that was calibrated with its quantizers as one that trains.

    Args:
        source: The model as it was given.
        solved: What calibration led to.
        wanted: The recipe that training follows; calibration had `for_calibration` of it.
        progress: Told what is going on.
        runtime: Where models run.
        start: When the work began, by `time.perf_counter`.

    Raises:
        ConfigValueError: There is no data to measure on.
        UnsupportedError: A node or a setting that cannot be trained.
    """
    if solved.probe is None:
        raise ConfigValueError("Training needs data: samples that the network is measured on.")
    calibrated = finished(
        source,
        solved.solution,
        solved.findings,
        solved.probe,
        progress,
        runtime,
        statistics=solved.statistics,
        latency=False,
        start=start,
    )
    plan = solved.solution.plan
    as_written = resolve(wanted, solved.solution.model, check=False) if wanted.training else None
    training = asked_of_training(wanted, as_written, plan)
    with progress.stage("build"):
        trained = build_module(solved.solution, training)
        teacher = to_torch(solved.solution.model).eval()
        teacher.requires_grad_(False)
    found = Trainable(calibrated, trained, teacher, solved.probe, runtime, source, progress)
    for module in (teacher, trained.module):
        explained(module, *_tensors(solved.probe.feeds[0], found.inputs))
    return found


def _tensors(feed: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> Iterator[Tensor]:
    from torch import from_numpy

    return (from_numpy(np.asarray(feed[n])) for n in names)


def _group(name: str) -> str:
    """Return the group of a parameter, by its path."""
    folder, last = name.split(".")[0], name.rsplit(".", 1)[-1]
    if folder == "weights":
        return {"weight": "weights", "log_gain": "offsets"}.get(last, "scales")
    if folder == "activations":
        return "scales"
    return "learned" if folder == "learned" else "offsets"


def _set(value: ir.Value, array: npt.NDArray[Any]) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
