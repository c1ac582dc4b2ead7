"""Training as the Ascend Model Compression Toolkit for PyTorch has it: its functions, arguments and files.

    create_quant_retrain_config(config.json)   every layer that can be trained
    create_quant_retrain_model                 a module with quantizers; train it in a loop of your own
    (one pass in evaluation writes the record)
    save_quant_retrain_model                   <prefix>_fake_quant_model.onnx, <prefix>_deploy_model.onnx

Layers have the names that they have in your module. While fewer than `batch_num` batches of training were seen, a range
without clips in the configuration is that of the batch; then IFMR, symmetric, over these batches gives the first clips.

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
from calibrant.numerics import QuantSpec
from calibrant.plan import resolve
from calibrant.qat.quantizers import ActivationQuantizer
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
        waiting = _without_clips(qat, config)
        self.starts = [_Start(qat.trained.activation(n), batch_num) for n in waiting]

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
    """The first range of a quantizer: of each batch, then of the first batches together."""

    def __init__(self, quantizer: ActivationQuantizer, batches: int) -> None:
        self.quantizer, self.left = quantizer, batches
        self.seen: TensorStats | None = None
        self.handle = quantizer.register_forward_pre_hook(self)

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not module.training or not args:
            return
        if self.left == 0:
            self._end()
            return
        x = args[0].detach()
        self._set(float(x.max()), float(x.min()))
        stats = TensorStats.of(x.float().cpu().numpy())
        self.seen = stats if self.seen is None else self.seen.merge(stats)
        self.left -= 1

    def _end(self) -> None:
        """Take the clips that IFMR finds over all of the first batches."""
        self.handle.remove()
        assert self.seen is not None
        spec = QuantSpec(self.quantizer.spec.bits, symmetric=True)
        low, high = algorithms.activation("ifmr")(self.seen, spec).range
        self._set(float(high), float(low))

    def _set(self, high: float, low: float) -> None:
        q = self.quantizer
        q.ends.copy_(_over_workers(torch.tensor([high, low])) / q.unit)


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


def _without_clips(qat: Trainable, config: str) -> list[str]:
    """Return the quantizers whose range the configuration does not give, one for each module."""
    plan = resolve(load_recipe(config), qat.solution.model, check=False)
    given = {
        d.node
        for d in plan.layers
        if d.settings.activation is not None
        and any(name == "clip_max" for name, _ in d.settings.activation.options)
    }
    found: dict[str, str] = {}
    for d in qat.solution.plan.activations:
        if d.fixed_range is None and not any(node in given for node, _ in d.users):
            found.setdefault(qat.trained.activations[d.id], d.id)
    return list(found.values())


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise OutputError(f"'{path}' cannot be written: {e.strerror or e}.") from e
