"""Calibration with AMCT's functions, arguments and files: a script for it runs with the import changed.

    create_quant_config(config.json)              every layer, with what holds for it
    quantize_preprocess ─► a model ─► one batch    factors that balance channels, into the record (where layers ask for it)
    quantize_model      ─► a model ─► batch_num batches   parameters, into the record
    save_model                                    <prefix>_fake_quant_model.onnx, <prefix>_deploy_model.onnx

A model is a module of torch, or an ONNX file. What is calibrated answers as the float model does; with the last of `batch_num`
batches the record is written. `modified_onnx_file` is the float model that the record belongs to, and both together are all that
`save_model` needs.

Source: the public documents of AMCT (PyTorch and ONNX editions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.probe import samples_for
from calibrant.compat.amct._checks import check_names
from calibrant.compat.amct._files import Place, write_models
from calibrant.compat.amct._given import Given, given_model
from calibrant.dialects import load_recipe
from calibrant.dialects.amct.write import create_config
from calibrant.errors import ConfigRuntimeError, ConfigValueError
from calibrant.graph.passes.balance import factors_by_layer
from calibrant.rebuild import quantize_from_record
from calibrant.recipe import Recipe
from calibrant.record.read import read_record
from calibrant.save.whole import write_whole
from calibrant.tuning.forms import balance_as_asked
from calibrant.tuning.road import solve
from calibrant.tuning.store import Store

__all__ = ["create_quant_config", "quantize_model", "quantize_preprocess", "save_model"]

Array = npt.NDArray[Any]
Factors = dict[str, npt.NDArray[np.float32]]


def create_quant_config(
    config_file: str | Path,
    model: Any,
    input_data: Any,
    skip_layers: Sequence[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
    config_defination: str | Path | None = None,
) -> None:
    """Write the configuration of a model: every layer that can be quantized.

    Args:
        config_file: The file to write, JSON.
        model: A module of torch, or an ONNX model.
        input_data: What it is called with, samples on axis 0; not needed for an ONNX model.
        skip_layers: Layers that stay in float.
        batch_num: Batches for calibration.
        activation_offset: Activations have a zero point.
        config_defination: A simplified configuration (`.cfg`); the three options before are left aside then.

    Raises:
        ConfigValueError: An unknown layer, a setting that does not fit its layer, or nothing to quantize.
        ModelError: The model cannot be read or exported.
    """
    text = create_config(
        given_model(model, input_data).model,
        skip_layers=tuple(skip_layers or ()),
        batch_num=batch_num,
        activation_offset=activation_offset,
        config=config_defination,
    )
    write_whole(Path(config_file), text, folders=True)


def quantize_preprocess(
    config_file: str | Path, record_file: str | Path, model: Any, input_data: Any
) -> Any:
    """Return a model; the first batch that it is called with writes balancing factors into the record.

    Args:
        config_file: What `create_quant_config` wrote, with `dmq_balancer_param` at some layers.
        record_file: Where the factors go, for `quantize_model`.
        model: A module of torch, or an ONNX model; it is not changed.
        input_data: What it is called with; not needed for an ONNX model.

    Raises:
        ConfigValueError: No layer of the configuration has `dmq_balancer_param`, or it is wrong.
        DataError: The channels of a layer are too uneven.
    """
    given = given_model(model, input_data)
    recipe = load_recipe(Path(config_file), dialect="amct")
    if not _balanced(given, recipe):
        raise ConfigValueError(
            f"'{config_file}' has no layer with dmq_balancer_param; there is nothing to prepare."
        )

    def written(feeds: list[dict[str, Array]]) -> None:
        write_whole(Path(record_file), _as_record(_factors(given, recipe, feeds)), folders=True)

    return given.watched(1, written)


def quantize_model(
    config_file: str | Path,
    modified_onnx_file: str | Path,
    record_file: str | Path,
    model: Any,
    input_data: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: Mapping[str, Any] | None = None,
) -> Any:
    """Return a model that calibrates: with the last of `batch_num` batches the record is written.

    Args:
        config_file: What `create_quant_config` wrote, edited or not.
        modified_onnx_file: Where the float model goes that the record belongs to.
        record_file: Where the parameters go; factors of `quantize_preprocess` are read from it first.
        model: A module of torch, or an ONNX model; it is not changed.
        input_data: What it is called with, samples on axis 0; not needed for an ONNX model.
        input_names: Names for the inputs of a module; those of an ONNX model, as it has them.
        output_names: Names for the outputs, likewise.
        dynamic_axes: Axes that are free; those of a module's batch are in any case.

    Raises:
        ConfigError: The configuration names what the model does not have, or is wrong.
        ConfigRuntimeError: A layer is to be balanced, and the record has no factors for it.
        ModelError: The model cannot be read or exported, or is quantized already.
    """
    given = given_model(model, input_data, input_names, output_names)
    check_names(given.model, input_names, output_names, None if given.is_module else dynamic_axes)
    recipe = load_recipe(Path(config_file), dialect="amct")
    factors = _recorded(Path(record_file), _balanced(given, recipe))
    write_models({Path(modified_onnx_file): given.model})
    write_whole(Path(record_file), _as_record(factors), folders=True)

    def written(feeds: list[dict[str, Array]]) -> None:
        store = Store(given.model, feeds, factors=factors)
        write_whole(Path(record_file), solve(store, recipe).solution.record.text(), folders=True)

    return given.watched(recipe.calibration.batch_num or 1, written)


def save_model(
    modified_onnx_file: str | Path, record_file: str | Path, save_path: str | Path
) -> None:
    """Write `<save_path>_fake_quant_model.onnx` and `<save_path>_deploy_model.onnx`.

    Args:
        modified_onnx_file: What `quantize_model` wrote.
        record_file: The record, after calibration.
        save_path: Folder and prefix; without a prefix it ends in `/`. Files that are there are written over.

    Raises:
        ConfigRuntimeError: The record has no parameters: calibration did not see enough batches.
        ConfigError: The record is damaged, or of another model.
        ModelError: The model is quantized already.
    """
    record = read_record(Path(record_file))
    if not any(e.value.scale_d for e in record.entries.values()):
        raise ConfigRuntimeError(
            f"'{record_file}' has no layer to be quantized: calibration has not seen the batches that batch_num of the "
            "configuration asks for."
        )
    made = quantize_from_record(Path(modified_onnx_file), record, latency=False)
    fake_quant, deploy = Place(Path(record_file), str(save_path)).models
    write_models({fake_quant: made.fake_quant, deploy: made.deploy})


def _balanced(given: Given, recipe: Recipe) -> list[str]:
    """Return the layers whose inputs are to be balanced."""
    plan = Store(given.model).prepared(recipe).plan
    return [d.node for d in plan.layers if d.quantized and d.settings.balance is not None]


def _factors(given: Given, recipe: Recipe, feeds: list[dict[str, Array]]) -> Factors:
    """Return what balances the layers that ask for it, from one batch."""
    store = Store(given.model, feeds, batch_num=1)
    prepared = store.prepared(recipe)
    probe = store.probe(prepared.model, store.samples(recipe), samples_for(recipe, prepared.plan))
    _, _, made = balance_as_asked(prepared.model, prepared.plan, recipe, probe)
    return factors_by_layer(made)


def _recorded(record_file: Path, layers: list[str]) -> Factors:
    """Read the factors of some layers from a record.

    Raises:
        ConfigRuntimeError: It has none for one of them.
    """
    if not layers:
        return {}
    entries = read_record(record_file).entries if record_file.is_file() else {}
    found = {
        n: np.array(entries[n].value.tensor_balance_factor, dtype=np.float32)
        for n in layers
        if n in entries and entries[n].value.tensor_balance_factor
    }
    missing = [n for n in layers if n not in found]
    if missing:
        raise ConfigRuntimeError(
            f"Layer '{missing[0]}' is to be balanced (dmq_balancer_param), and '{record_file}' has no factors for it: "
            "call quantize_preprocess, and its model with a batch, first."
        )
    return found


def _as_record(factors: Factors) -> str:
    """Return a record that holds factors alone; an empty text for none."""
    lines = []
    for layer, values in factors.items():
        lines += ["record {", f'  key: "{layer}"', "  value {"]
        lines += [f"    tensor_balance_factor: {v!s}" for v in values]
        lines += ["  }", "}"]
    return "".join(f"{line}\n" for line in lines)
