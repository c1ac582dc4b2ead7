"""Training as the Ascend Model Compression Toolkit for PyTorch has it: its functions, arguments and files.

    create_quant_retrain_config(config.json)   every layer that can be trained
    create_quant_retrain_model                 a module with quantizers; train it in a loop of your own
    (one pass in evaluation writes the record)
    save_quant_retrain_model                   <prefix>_fake_quant_model.onnx, <prefix>_deploy_model.onnx

Layers have the names that they have in your module. A range without clips in the configuration is that of the batch until
`batch_num` batches were seen; with the last of these, IFMR, symmetric, over all of them gives the first clips. Parameters are
clips, scales, weights and biases as they are, and a step computes what it computes in the toolkit (`quantizers.natural`), so
that rates of a script mean the same.

Two things differ from the toolkit: the module is the deployed graph, so it trains folded batch normalizations, with a
gain for each channel; and the deploy model is standard ONNX with QuantizeLinear and DequantizeLinear.

Source: the public code and documents of AMCT for PyTorch; docs/explanation/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, distributed, nn

from calibrant import algorithms
from calibrant.dialects import load_recipe
from calibrant.dialects.amct.retrain_write import create_retrain_config
from calibrant.errors import ConfigRuntimeError, ConfigTypeError, OutputError
from calibrant.graph.modules import exported
from calibrant.graph.passes.fuse_batchnorm import FOLDED
from calibrant.numerics import QuantSpec
from calibrant.plan import resolve
from calibrant.plan.folding import float_weight
from calibrant.qat.quantizers import ActivationQuantizer
from calibrant.qat.quantizers.natural import NaturalActivation, NaturalBias, natural_weight
from calibrant.qat.recipe import asked_of_training
from calibrant.qat.trainable import Trainable, prepare
from calibrant.stats import TensorStats

__all__ = [
    "RetrainModel",
    "create_quant_retrain_config",
    "create_quant_retrain_model",
    "restore_quant_retrain_model",
    "save_quant_retrain_model",
]


class RetrainModel(nn.Module):
    """A network that trains with its quantizers, called as the module that it was made from.

    Args:
        qat: The network.
        config: Text of its configuration.
        record_file: Where the record goes, at the first pass in evaluation behind a step of training.
        batch_num: Batches that the first ranges come from.
    """

    def __init__(self, qat: Trainable, config: str, record_file: Path, batch_num: int) -> None:
        """Begin with ranges that wait for their batches."""
        super().__init__()
        self.graph = qat.module
        self.qat, self.config, self.record_file = qat, config, record_file
        self.due = False
        self.starts: list[_Start] = []
        for path, clips in _clips(qat, config).items():
            quantizer: Any = qat.module.get_submodule(path)
            if clips is not None:
                _set(quantizer, *clips)
            elif quantizer.spec.learns:
                self.starts.append(_Start(quantizer, batch_num))

    def forward(self, *inputs: Tensor) -> Any:
        """Answer as the module does."""
        answer = self.graph(*inputs)
        if self.training:
            self.due = True
        elif self.due:
            self.due = False
            self.write_record()
        return answer

    def write_record(self) -> None:
        """Write scales and zero points as they are now."""
        _write(self.record_file, self.qat.to_solution().record.text())


class _Start:
    """The first range of a quantizer: of each batch, and with the last of the first batches that of them together."""

    def __init__(self, quantizer: ActivationQuantizer, batches: int) -> None:
        self.quantizer, self.left = quantizer, batches
        self.seen: TensorStats | None = None
        self.handle = quantizer.register_forward_pre_hook(self)

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args:
            return
        x = args[0].detach()
        stats = TensorStats.of(x.float().cpu().numpy())
        self.seen = stats if self.seen is None else self.seen.merge(stats)
        self.left -= 1
        if self.left:
            _set(self.quantizer, float(x.max()), float(x.min()))
        else:
            self._end()

    def _end(self) -> None:
        """Take the clips that IFMR finds over all of the first batches."""
        self.handle.remove()
        assert self.seen is not None
        spec = QuantSpec(self.quantizer.spec.bits, symmetric=True)
        low, high = algorithms.activation("ifmr")(self.seen, spec).range
        _set(self.quantizer, float(high), float(low))


@torch.no_grad()
def _set(quantizer: ActivationQuantizer, high: float, low: float) -> None:
    """Set both clips; processes that train together get the mean of theirs."""
    clips = _over_workers(torch.tensor([high, low], device=quantizer.ends.device))
    quantizer.ends.copy_(clips / quantizer.unit)
    quantizer.last.copy_(clips)


def _over_workers(values: Tensor) -> Tensor:
    """Return the mean over the processes that train together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    distributed.all_reduce(values)
    return values / distributed.get_world_size()


def create_quant_retrain_config(
    config_file: str | Path, model: nn.Module, input_data: Any, config_defination: Any = None
) -> None:
    """Write the configuration of a module: every layer that training quantizes, in the order of the network.

    Args:
        config_file: The file to write, JSON.
        model: The float module.
        input_data: What it is called with, samples on axis 0.
        config_defination: A simplified configuration (`.cfg`); None for the defaults.

    Raises:
        ConfigValueError: An unknown layer, a setting that does not fit its layer, or no layer enabled.
        ModelError: The module cannot be exported.
    """
    float_model = _exported(model, input_data)
    _write(Path(config_file), create_retrain_config(float_model, config=config_defination))


def create_quant_retrain_model(
    config_file: str | Path, model: nn.Module, record_file: str | Path, input_data: Any
) -> RetrainModel:
    """Return a module with quantizers, to be trained in a loop of your own.

    Args:
        config_file: What `create_quant_retrain_config` wrote, edited or not, or a simplified configuration.
        model: The float module; it is not changed.
        record_file: Where the record goes, at the first pass in evaluation behind training.
        input_data: What the module is called with, samples on axis 0.

    Raises:
        ConfigError: The configuration names what the module does not have, or is wrong.
        ModelError: The module cannot be exported or quantized.
    """
    text = Path(config_file).read_text(encoding="utf-8")
    float_model = _exported(model, input_data)
    qat = prepare(float_model, _feeds(float_model, input_data), config_file)
    _in_own_units(qat, config_file)
    batches = load_recipe(config_file).calibration.batch_num or 1
    return RetrainModel(qat, text, Path(record_file), batches).train(model.training)


def restore_quant_retrain_model(
    config_file: str | Path,
    model: nn.Module,
    record_file: str | Path,
    input_data: Any,
    pth_file: str | Path,
    state_dict_name: str | None = None,
) -> RetrainModel:
    """Return a module with quantizers in the state that a file holds.

    Args:
        config_file: The configuration that it was trained with.
        model: The float module.
        record_file: Where the record goes.
        input_data: What the module is called with.
        pth_file: What `torch.save` wrote of `state_dict()`; nothing in it is executed.
        state_dict_name: Key of the state in the file; None where the file holds nothing else.

    Raises:
        ConfigRuntimeError: The file has no such key, or the state of another network.
    """
    found = create_quant_retrain_model(config_file, model, record_file, input_data)
    held: Mapping[str, Any] = torch.load(pth_file, weights_only=True)
    if state_dict_name is not None:
        if state_dict_name not in held:
            raise ConfigRuntimeError(
                f"'{pth_file}' has no '{state_dict_name}'; it has {', '.join(held)}."
            )
        held = held[state_dict_name]
    for start in found.starts:
        start.handle.remove()
    try:
        found.load_state_dict(dict(held))
    except RuntimeError as e:
        raise ConfigRuntimeError(
            f"'{pth_file}' is of another network or configuration: {e}"
        ) from e
    return found


def save_quant_retrain_model(
    config_file: str | Path,
    model: RetrainModel,
    record_file: str | Path,
    save_path: str | Path,
    input_data: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Any = None,
) -> None:
    """Write the trained network: `<save_path>_fake_quant_model.onnx`, `<save_path>_deploy_model.onnx`, and the record.

    Args:
        config_file: The configuration that the module was made with.
        model: What `create_quant_retrain_model` returned, trained.
        record_file: Where the record goes.
        save_path: Folder and prefix.
        input_data: Not needed: the network is exported already.
        input_names: Names for the inputs; None keeps those of the module's arguments.
        output_names: Names for the outputs.
        dynamic_axes: Not needed: the batch is free.

    Raises:
        ConfigRuntimeError: The configuration is another one than the module was made with.
        ConfigTypeError: The module is none for training.
        ModelError: The deployed model does not compute what the module does.
    """
    if not isinstance(model, RetrainModel):
        raise ConfigTypeError(
            f"model is a {type(model).__name__}; it is what create_quant_retrain_model returns."
        )
    if Path(config_file).read_text(encoding="utf-8") != model.config:
        raise ConfigRuntimeError(
            f"'{config_file}' is not the configuration that the model was made with."
        )
    result = model.qat.convert()
    prefix = str(save_path)
    start = prefix if prefix.endswith("/") else f"{prefix}_"
    for name, made in (("fake_quant", result.fake_quant), ("deploy", result.deploy)):
        _rename(made, input_names, output_names)
        path = Path(f"{start}{name}_model.onnx")
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(made, path)
    _write(Path(record_file), result.record.text())


def _rename(model: ir.Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> None:
    for values, names in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, name in zip(values, names or (), strict=False):
            value.name = name


def _exported(model: nn.Module, input_data: Any) -> ir.Model:
    if not isinstance(model, nn.Module):
        raise ConfigTypeError(f"model is a {type(model).__name__}; it is a module of torch.")
    return exported(model, input_data)


def _feeds(model: ir.Model, input_data: Any) -> dict[str, Any]:
    given = input_data if isinstance(input_data, tuple | list) else (input_data,)
    return {
        v.name or "": x.detach().cpu().numpy()
        for v, x in zip(model.graph.inputs, given, strict=True)
    }


def _clips(qat: Trainable, config: str) -> dict[str, tuple[float, float] | None]:
    """Return clip_max and clip_min of each quantizer as the configuration gives them, by path; None where it does not."""
    plan = resolve(load_recipe(config), qat.solution.model, check=False)
    given: dict[str, tuple[float, float]] = {}
    for layer in plan.layers:
        if layer.settings.activation is not None:
            said = dict(layer.settings.activation.options)
            if "clip_max" in said:
                given[layer.node] = float(said["clip_max"]), float(said["clip_min"])
    found: dict[str, tuple[float, float] | None] = {}
    for d in qat.solution.plan.activations:
        if d.spec.axis is None:
            clips = next((given[node] for node, _ in d.users if node in given), None)
            found.setdefault(qat.trained.activations[d.id], clips)
    return found


def _in_own_units(qat: Trainable, config_file: str | Path) -> None:
    """Let every quantizer train as in the toolkit; a layer with a folded batch normalization keeps its gains."""
    module, trained = qat.module, qat.trained
    model, plan, params = qat.solution.model, qat.solution.plan, qat.solution.params
    nodes = {n.name or "": n for n in model.graph}
    said = asked_of_training(
        load_recipe(config_file), resolve(load_recipe(config_file), model, check=False), plan
    ).fixed_min
    made: dict[str, nn.Module] = {}
    for d in plan.activations:
        path = trained.activations[d.id]
        quantizer = module.get_submodule(path)
        if path in made or not isinstance(quantizer, ActivationQuantizer):
            continue
        asked = [said[n] for n, _ in d.users if n in said]
        behind_relu = any(
            v.name == d.tensor and n.op_type == "Relu" for n in nodes.values() for v in n.outputs
        )
        fixed = asked[0] if asked else behind_relu
        made[path] = NaturalActivation.like(quantizer, fixed_min=fixed and not d.spec.symmetric)
    for w in plan.weights:
        weight = float_weight(model, plan, w, params.activations)
        gains = bool(nodes[w.layer].meta.get(FOLDED))
        made.setdefault(
            trained.weights[w.layer],
            natural_weight(trained.weight(w.layer), weight, gains=gains),
        )
        if w.layer in trained.biases:
            made[trained.biases[w.layer]] = NaturalBias.like(trained.bias(w.layer))
    for path, quantizer in made.items():
        module.set_submodule(path, quantizer)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e
