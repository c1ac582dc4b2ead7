"""Layers go back to float until a user's own evaluator is satisfied, with the arguments of the vendor's function.

| file | content |
|---|---|
| `<save_dir>_fake_quant_model.onnx`, `<save_dir>_deploy_model.onnx` | the models, as standard ONNX |
| `record_file` | their parameters |
| beside `save_dir`: `accuracy_based_auto_calibration_final_config.json` | the configuration, with the final `quant_enable` |
| `accuracy_based_auto_calibration_ranking_information.json` | [layer, similarity], the one that loses most first |
| `amct_log/accuracy_based_auto_calibration_record.json` | each configuration that was evaluated, as a JSON array |

Where the target cannot be reached there are no models and no final configuration. The user's configuration is not changed.

Source: accuracy_based_auto_calibration of the Ascend Model Compression Toolkit, as its public documentation describes it; its
decisions are in `tuning.strategies.roll_back`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.compat.amct._checks import check_names, having, named
from calibrant.compat.amct._files import Place
from calibrant.compat.amct._given import Given, given_model
from calibrant.compat.amct.net import Net
from calibrant.compat.amct.own import (
    AutoCalibrationEvaluatorBase,
    AutoCalibrationStrategyBase,
    SensitivityBase,
)
from calibrant.diagnose.own_outputs import half_cosine, own_outputs
from calibrant.dialects import load_recipe
from calibrant.errors import ConfigTypeError, ConfigValueError, DataError
from calibrant.graph.load import ModelLike, load
from calibrant.recipe import Recipe
from calibrant.solution import Solution, build
from calibrant.tuning.bench import Bench
from calibrant.tuning.driver import drive
from calibrant.tuning.strategies.amct_rollback import rolled_back
from calibrant.tuning.strategies.roll_back import (
    BinarySearch,
    MetricEval,
    Ranked,
    RollBack,
    RollBackQuestion,
    RollBackStrategy,
    roll_back,
)

__all__ = [
    "AutoCalibration",
    "AutoCalibrationEvaluatorBase",
    "AutoCalibrationStrategyBase",
    "SensitivityBase",
    "accuracy_based_auto_calibration",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class AutoCalibration:
    """What accuracy_based_auto_calibration found.

    Args:
        found: The decisions: outcome, which layers stay quantized, the ranking, the history.
        original: What the evaluator said of the float model.
        final: What it said of the model that stands; None where there is none.
        files: What was written.
    """

    found: RollBack
    original: Any
    final: Any
    files: tuple[Path, ...]


def accuracy_based_auto_calibration(
    model: ModelLike,
    model_evaluator: Any,
    config_file: str | Path,
    record_file: str | Path,
    save_dir: str | Path,
    input_data: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    strategy: str | RollBackStrategy = "BinarySearch",
    sensitivity: str | Any = "CosineSimilarity",
) -> AutoCalibration:
    """Quantize a model, and take layers back to float until an evaluator is satisfied.

    For an ONNX model, the evaluator is given models that are called with arrays in the order of the inputs, or with a mapping by
    name (`Net`). For a module of torch, it is given that module itself, a copy of it that calibrates, and quantized models as
    modules that take tensors and return tensors.

    Args:
        model: The float model: an ONNX model, or a module of torch.
        model_evaluator: Has `calibration(model)`, `evaluate(model)` and `metric_eval(original, new)`
            (`AutoCalibrationEvaluatorBase`).
        config_file: AMCT `config.json`; a copy of it becomes the final configuration.
        record_file: Where the parameters are written.
        save_dir: Folder and prefix of the models; without a prefix it ends in `/`.
        input_data: An example of the inputs, one array each, in their order; an ONNX model is run on it once, as a check. A
            module of torch is exported with it.
        input_names: Names for the inputs of a module; those of an ONNX model, as it has them.
        output_names: Names for the outputs, likewise.
        dynamic_axes: Name of an input or output -> axes that are free; an ONNX model has to have them free, and those of a
            module's batch are in any case.
        strategy: `BinarySearch`, or an object with `initialize` and `update_quant_config` (`AutoCalibrationStrategyBase`).
        sensitivity: `CosineSimilarity`, or an object with `compare` (`SensitivityBase`).

    Raises:
        ConfigValueError: The float model itself does not satisfy the evaluator; or a name, an axis or the configuration does
            not fit the model.
        ConfigTypeError: An evaluator, a strategy or a sensitivity without its methods.
        DataError: The evaluator's calibration runs fewer batches than the configuration asks for.
        OutputError: A file cannot be written.
    """
    evaluator = having(
        model_evaluator, ("calibration", "evaluate", "metric_eval"), "model_evaluator"
    )
    if isinstance(strategy, str):
        named(strategy, "BinarySearch", "strategy")
        strategy = BinarySearch()
    having(strategy, ("initialize", "update_quant_config"), "strategy")
    if isinstance(sensitivity, str):
        named(sensitivity, "CosineSimilarity", "sensitivity")
        sensitivity = None
    else:
        having(sensitivity, ("compare",), "sensitivity")
    given = given_model(model, input_data, input_names, output_names)
    original = load(given.model)
    recipe = load_recipe(Path(config_file), dialect="amct")
    content = json.loads(Path(config_file).read_text(encoding="utf-8-sig"))
    check_names(original, input_names, output_names, None if given.is_module else dynamic_axes)
    if input_data is not None and not given.is_module:
        Net(original)(*(input_data if isinstance(input_data, tuple | list) else (input_data,)))

    accuracy = evaluator.evaluate(given.called())
    same = _said(evaluator, accuracy, accuracy)
    if not same[0]:
        raise ConfigValueError(
            "metric_eval says that the original model is not as good as itself, so no model can satisfy it."
        )
    answers = _Answers(given, original, evaluator, recipe, accuracy, sensitivity, tuple(content))
    found = drive(roll_back(same, strategy), answers.answer)
    place = Place(Path(record_file), str(save_dir))
    if found.outcome == "all rolled back":
        files = place.without_models(found)
        return AutoCalibration(found, accuracy, None, tuple(files))
    for name, stays in found.kept.items():
        content[name]["quant_enable"] = stays
    assert answers.last is not None
    files = place.with_models(found, answers.last, content)
    return AutoCalibration(found, accuracy, answers.final, tuple(files))


@dataclass(slots=True, eq=False)
class _Answers:
    """Answers the questions of the procedure with the user's evaluator.

    Args:
        given: The float model as it was given.
        original: The float model.
        evaluator: The user's.
        recipe: What the configuration says.
        accuracy: What the evaluator said of the float model.
        sensitivity: The user's, or None.
        order: Keys of the configuration.
    """

    given: Given
    original: ir.Model
    evaluator: Any
    recipe: Recipe
    accuracy: Any
    sensitivity: Any
    order: tuple[str, ...]
    last: Solution | None = None
    final: Any = None
    _bench: Bench | None = None
    _feeds: list[dict[str, Array]] = field(default_factory=list)

    def answer(self, question: RollBackQuestion) -> Any:
        """Answer a question."""
        if isinstance(question, Ranked):
            return self._ranking()
        recipe = rolled_back(self.recipe, dict(question.kept or ()))
        self.last = self._calibrated().solve(recipe)
        self.final = self.evaluator.evaluate(self.given.called(build(self.last).fake_quant))
        return _said(self.evaluator, self.accuracy, self.final)

    def _calibrated(self) -> Bench:
        """Let the evaluator run its calibration data, as for every configuration."""
        seen: list[dict[str, Array]] = []
        self.evaluator.calibration(self.given.seen_by(seen))
        wanted = self.recipe.calibration.batch_num or 1
        if len(seen) < wanted:
            raise DataError(
                f"The evaluator's calibration ran the model on {len(seen)} batches; batch_num of the configuration is {wanted}."
            )
        if self._bench is None or not _equal(seen, self._feeds):
            self._feeds, self._bench = seen, Bench(self.original, seen)
        return self._bench

    def _ranking(self) -> dict[str, float]:
        assert self._bench is not None
        assert self.last is not None
        quantized = {d.node for d in self.last.plan.layers if d.quantized}
        layers = [n for n in self.order if n in quantized]
        batches = (b.feeds for b in self._bench.store.samples(self.recipe).all())
        if self.sensitivity is None:
            return own_outputs(self.last, layers, batches, half_cosine)
        found = own_outputs(self.last, layers, batches, self.sensitivity.compare)
        worse = getattr(self.sensitivity, "larger_is_worse", False)
        return {n: -v for n, v in found.items()} if worse else found


def _said(evaluator: Any, original: Any, new: Any) -> MetricEval:
    """Return what metric_eval says.

    Raises:
        ConfigTypeError: It returns no pair.
    """
    said = evaluator.metric_eval(original, new)
    if not isinstance(said, tuple | list) or len(said) != 2:
        raise ConfigTypeError(
            f"metric_eval returns {said!r}; it returns a pair: whether the model is good enough, and what is lost."
        )
    return bool(said[0]), float(said[1])


def _equal(one: Sequence[Mapping[str, Array]], other: Sequence[Mapping[str, Array]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)
        for a, b in zip(one, other, strict=True)
    )
