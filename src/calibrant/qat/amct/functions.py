"""The functions of training, with the toolkit's names and arguments."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from calibrant.dialects import load_recipe
from calibrant.dialects.amct.retrain_write import create_retrain_config
from calibrant.errors import ConfigRuntimeError, ConfigTypeError
from calibrant.graph.modules import exported, unwrapped
from calibrant.graph.rename import rename
from calibrant.qat.amct.model import RetrainModel
from calibrant.qat.arguments import feeds_of
from calibrant.qat.own_units import in_own_units
from calibrant.qat.trainable import prepare
from calibrant.save.whole import write_whole

__all__ = [
    "create_quant_retrain_config",
    "create_quant_retrain_model",
    "restore_quant_retrain_model",
    "save_quant_retrain_model",
]

#: What torch's wrappers put in front of names: data parallel, and compiled.
_WRAPPERS = ("module.", "_orig_mod.")


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
    write_whole(
        Path(config_file),
        create_retrain_config(float_model, config=config_defination),
        folders=True,
    )


def create_quant_retrain_model(
    config_file: str | Path, model: nn.Module, record_file: str | Path, input_data: Any
) -> Any:
    """Return a module with quantizers, to be trained in a loop of your own.

    For a module in `DistributedDataParallel`, it is in one, too.

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
    example = feeds_of(float_model, input_data)
    qat = prepare(float_model, example, config_file, batch_num=1)  # ranges come from training
    in_own_units(qat, config_file)
    batches = load_recipe(config_file).calibration.batch_num or 1
    found = RetrainModel(qat, text, Path(record_file), batches).train(model.training)
    if not isinstance(model, DistributedDataParallel):
        return found
    found.to(next(model.parameters()).device)
    return DistributedDataParallel(
        found,
        device_ids=model.device_ids or None,
        process_group=model.process_group,
        find_unused_parameters=model.find_unused_parameters,
    )


def restore_quant_retrain_model(
    config_file: str | Path,
    model: nn.Module,
    record_file: str | Path,
    input_data: Any,
    pth_file: str | Path,
    state_dict_name: str | None = None,
) -> Any:
    """Return a module with quantizers in the state that a file holds.

    Args:
        config_file: The configuration that it was trained with.
        model: The float module.
        record_file: Where the record goes.
        input_data: What the module is called with.
        pth_file: What `torch.save` wrote of `state_dict()`, of the module or of torch's wrapper around it; nothing in it is executed.
        state_dict_name: Key of the state in the file; None where the file holds nothing else.

    Raises:
        ConfigRuntimeError: The file has no such key, the state of another network, or more than tensors and plain values.
    """
    made = create_quant_retrain_model(config_file, model, record_file, input_data)
    found: RetrainModel = unwrapped(made)
    held = _read(pth_file)
    if state_dict_name is not None:
        if state_dict_name not in held:
            raise ConfigRuntimeError(
                f"'{pth_file}' has no '{state_dict_name}'; it has {', '.join(held)}."
            )
        held = held[state_dict_name]
    for start in found.starts:
        start.handle.remove()
    found.due = True  # the next pass in evaluation writes the record
    try:
        found.load_state_dict({_own_name(k): v for k, v in held.items()})
    except RuntimeError as e:
        raise ConfigRuntimeError(
            f"'{pth_file}' is of another network or configuration: {e}"
        ) from e
    return made


def _read(pth_file: str | Path) -> Mapping[str, Any]:
    """Read what `torch.save` wrote."""
    try:
        found: Mapping[str, Any] = torch.load(pth_file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ConfigRuntimeError(
            f"'{pth_file}' holds more than tensors, numbers and texts, and nothing in it is executed. Save the state alone: "
            "torch.save({'state_dict': model.state_dict()}, …)."
        ) from e
    return found


def _own_name(key: str) -> str:
    """Return the name of a value without what torch's wrappers put in front of it."""
    while key.startswith(_WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def save_quant_retrain_model(
    config_file: str | Path,
    model: nn.Module,
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
        ConfigValueError: More or fewer names than inputs or outputs.
        ModelError: The deployed model does not compute what the module does.
    """
    model = unwrapped(model)
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
        rename(made, input_names, output_names)
        path = Path(f"{start}{name}_model.onnx")
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(made, path)
    write_whole(Path(record_file), result.record.text(), folders=True)


def _exported(model: nn.Module, input_data: Any) -> ir.Model:
    if not isinstance(model, nn.Module):
        raise ConfigTypeError(f"model is a {type(model).__name__}; it is a module of torch.")
    return exported(model, input_data)
