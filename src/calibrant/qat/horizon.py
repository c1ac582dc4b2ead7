"""Training as Horizon's plugin for PyTorch has it: prepare, three states of the quantizers, export, convert.

    prepare ─► CALIBRATION (eval)  quantizers pass on what they get, and watch it
            ─► QAT         (train) quantizers round, and their ranges learn
            ─► VALIDATION  (eval)  quantizers round, nothing learns
            ─► export ─► convert ─► a QuantizedModel, as from `calibrant.quantize`

Ranges of activations are symmetric and those of least squared error over all that was seen; weights have a scale for each
channel. A state dict goes from a model that was calibrated to one that trains. Parameters are ranges, scales, weights and
biases as they are, so rates of a script mean what they mean there.

Two things differ: what trains is the deployed graph, so batch normalizations are folded, with a gain for each channel; and a
march chooses nothing, since the deployed model is standard ONNX for the target `horizon-like`.

Source: the public documents and examples of horizon_plugin_pytorch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from calibrant import algorithms
from calibrant.errors import ConfigRuntimeError, ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.graph.modules import exported
from calibrant.graph.rename import rename
from calibrant.numerics import QuantSpec
from calibrant.qat.arguments import feeds_of, in_order
from calibrant.qat.own_units import in_own_units, set_clips
from calibrant.qat.quantizers import ActivationQuantizer, BiasQuantizer, WeightQuantizer
from calibrant.qat.trainable import Trainable
from calibrant.qat.trainable import prepare as prepare_model
from calibrant.results import QuantizedModel
from calibrant.stats import TensorStats

__all__ = [
    "FakeQuantState",
    "HorizonModel",
    "ModuleNameQconfigSetter",
    "PrepareMethod",
    "Qconfig",
    "convert",
    "export",
    "prepare",
    "set_fake_quantize",
]


class FakeQuantState(Enum):
    """What quantizers do."""

    QAT = "qat"
    CALIBRATION = "calibration"
    VALIDATION = "validation"
    _FLOAT = "float"


class PrepareMethod(Enum):
    """How the plugin reads a module; here it is exported in any case."""

    EAGER = "eager"
    SYMBOLIC = "symbolic"
    JIT = "jit"
    JIT_STRIP = "jit-strip"


@dataclass(frozen=True, slots=True)
class Qconfig:
    """How layers are quantized.

    Args:
        activation: Bits of activations, 8 or 16; None leaves the layers in float.
        weight: Bits of weights.
        fixed: Ranges of activations stay as they were calibrated.
    """

    activation: int | None = 8
    weight: int = 8
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class ModuleNameQconfigSetter:
    """What single modules are quantized with.

    Args:
        module_name_to_qconfig: Name of a module -> what holds for it and for all in it; None leaves it in float.
    """

    module_name_to_qconfig: Mapping[str, Qconfig | None] = field(default_factory=dict)


#: Setters by the plugin's names.
SETTERS: dict[str, Qconfig] = {
    "default_calibration_qconfig_setter": Qconfig(),
    "default_qat_qconfig_setter": Qconfig(),
    "default_qat_fixed_act_qconfig_setter": Qconfig(fixed=True),
    "calibration_8bit_weight_16bit_act_qconfig_setter": Qconfig(16),
    "qat_8bit_weight_16bit_act_qconfig_setter": Qconfig(16),
    "qat_8bit_weight_16bit_fixed_act_qconfig_setter": Qconfig(16, fixed=True),
}

Setter = Qconfig | ModuleNameQconfigSetter


class HorizonModel(nn.Module):
    """A network with quantizers, called as the module that it was made from.

    Args:
        qat: The network.
        fixed: Paths of quantizers of activations whose ranges do not learn.
    """

    def __init__(self, qat: Trainable, *, fixed: Collection[str] = ()) -> None:
        """Begin with quantizers that round."""
        super().__init__()
        self.graph, self.qat, self.inputs = qat.module, qat, qat.inputs
        self.state = FakeQuantState.VALIDATION
        self._seen: dict[ActivationQuantizer, TensorStats] = {}
        self.graph.register_load_state_dict_post_hook(self._loaded)
        for path, part in qat.module.named_modules():
            if isinstance(part, ActivationQuantizer | WeightQuantizer | BiasQuantizer):
                part.register_forward_hook(self._passed)
                if path in fixed and isinstance(part, ActivationQuantizer):
                    part.ends.requires_grad_(False)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Answer as the module does."""
        return self.graph(*in_order(self.inputs, inputs, named))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state, with the ranges of what this process has seen until now; no other one has to call it."""
        self.settle()
        return super().state_dict(*args, **kwargs)

    @torch.no_grad()
    def settle(self, *, together: bool = False) -> None:
        """Take the ranges of least squared error over all that quantizers have seen.

        Args:
            together: Take the mean over the processes that train together, each of which has to call this.
        """
        for quantizer, stats in self._seen.items():
            spec = QuantSpec(quantizer.spec.bits, symmetric=True)
            low, high = algorithms.activation("mse")(stats, spec).range
            set_clips(quantizer, float(high), float(low), together=together)

    def begin(self, state: FakeQuantState) -> None:
        """Go into a state; what calibration saw becomes ranges when it ends, the same in all processes that train together."""
        if state is not FakeQuantState.CALIBRATION:
            self.settle(together=True)
            self._seen.clear()
        self.state = state

    def _loaded(self, part: nn.Module, keys: Any) -> None:
        """Forget what was seen: ranges are those of a state that was loaded."""
        self._seen.clear()

    def _passed(self, part: nn.Module, args: tuple[Any, ...], answer: Any) -> Any:
        """Take back what a quantizer did, in states that do not round."""
        if self.state in (FakeQuantState.QAT, FakeQuantState.VALIDATION):
            return None
        if isinstance(part, WeightQuantizer):
            return torch.from_numpy(part.floats()).to(answer[0]), answer[1]
        if isinstance(part, BiasQuantizer):
            return part.bias
        assert isinstance(part, ActivationQuantizer)
        if not args or args[0] is None:
            return None
        if self.state is FakeQuantState.CALIBRATION and part.spec.learns:
            stats = TensorStats.of(args[0].detach().float().cpu().numpy())
            seen = self._seen.get(part)
            self._seen[part] = stats if seen is None else seen.merge(stats)
        return args[0]


def prepare(
    model: nn.Module,
    example_inputs: Any = None,
    qconfig_setter: Setter | Sequence[Setter] | None = None,
    method: PrepareMethod = PrepareMethod.JIT_STRIP,
    example_kw_inputs: Any = None,
) -> HorizonModel:
    """Return a module with quantizers.

    Args:
        model: The float module; it is not changed.
        example_inputs: What it is called with, samples on axis 0; ranges begin with it.
        qconfig_setter: How it is quantized: `default_calibration_qconfig_setter` and its like, `ModuleNameQconfigSetter`, or
            several of them, of which the first that names a layer holds. None for 8 bits.
        method: As the plugin has it; the module is exported in any case.
        example_kw_inputs: What it is called with by name, in the place of `example_inputs`; one of both is given.

    Raises:
        ConfigTypeError: A setter of another kind.
        ConfigValueError: No example or both, or a module that there is not.
        ModelError: The module cannot be exported or quantized.
    """
    if not isinstance(method, PrepareMethod):
        raise ConfigTypeError(f"method is a {type(method).__name__}; it is a PrepareMethod.")
    if example_inputs is not None and example_kw_inputs is not None:
        raise ConfigValueError(
            "example_inputs and example_kw_inputs are given; it is one of them: name all inputs, or none."
        )
    example = example_kw_inputs if example_inputs is None else example_inputs
    if example is None:
        raise ConfigValueError("prepare needs example_inputs: what the module is called with.")
    float_model = exported(model, example)
    common, named = _said(qconfig_setter)
    qat = prepare_model(
        float_model, feeds_of(float_model, example), _recipe(float_model, common, named)
    )
    in_own_units(qat)
    return HorizonModel(qat, fixed=_fixed(qat, common, named)).train(model.training)


def set_fake_quantize(model: nn.Module, mode: FakeQuantState) -> None:
    """Say what the quantizers of a model do from now on.

    Args:
        model: What `prepare` returned, or a module around it.
        mode: The state. `QAT` is for `model.train()`, `CALIBRATION` and `VALIDATION` are for `model.eval()`.

    Raises:
        ConfigTypeError: No model of `prepare`, or no state.
        ConfigRuntimeError: The model trains where it has to be in evaluation, or the other way round.
    """
    if not isinstance(mode, FakeQuantState):
        raise ConfigTypeError(f"mode is a {type(mode).__name__}; it is a FakeQuantState.")
    found = [m for m in model.modules() if isinstance(m, HorizonModel)]
    if not found:
        raise ConfigTypeError("The model holds none that prepare returned.")
    for part in found:
        if mode is FakeQuantState.QAT and not part.training:
            raise ConfigRuntimeError("Call model.train() before the state QAT.")
        if mode in (FakeQuantState.CALIBRATION, FakeQuantState.VALIDATION) and part.training:
            raise ConfigRuntimeError(f"Call model.eval() before the state {mode.name}.")
        part.begin(mode)


def export(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    name: str = "forward",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> QuantizedModel:
    """Return a trained model as files have it, checked against the module.

    Args:
        model: What `prepare` returned.
        example_inputs: Not needed: the network is exported already.
        name: Name of its graph.
        input_names: Names for the inputs; None keeps those of the module's arguments.
        output_names: Names for the outputs.

    Raises:
        ConfigTypeError: No model of `prepare`.
        ConfigValueError: More or fewer names than inputs or outputs.
        ModelError: The deployed model does not compute what the module does.
    """
    if not isinstance(model, HorizonModel):
        raise ConfigTypeError(f"model is a {type(model).__name__}; it is what prepare returns.")
    model.settle()
    result = model.qat.convert()
    for made in (result.fake_quant, result.deploy):
        rename(made, input_names, output_names)
        made.graph.name = name
    return result


def convert(m: QuantizedModel, march: Any = None) -> ir.Model:
    """Return the deployed model of what `export` returned: integers, as standard ONNX.

    Args:
        m: What `export` returned.
        march: Chooses nothing here.

    Raises:
        ConfigTypeError: Something else.
    """
    if not isinstance(m, QuantizedModel):
        raise ConfigTypeError(f"m is a {type(m).__name__}; it is what export returns.")
    return m.deploy


def _said(
    setter: Setter | Sequence[Setter] | None,
) -> tuple[Qconfig, list[tuple[str, Qconfig | None]]]:
    """Return what holds for all layers, and for single ones, the first that is said first."""
    several = setter if isinstance(setter, Sequence) else (() if setter is None else (setter,))
    common, named = Qconfig(), []
    for one in several:
        if isinstance(one, ModuleNameQconfigSetter):
            named += list(one.module_name_to_qconfig.items())
        elif isinstance(one, Qconfig):
            common = one
            break
        else:
            raise ConfigTypeError(
                f"A setter is a {type(one).__name__}; it is one of {', '.join(SETTERS)}, or a ModuleNameQconfigSetter."
            )
    return common, named


def _recipe(
    model: ir.Model, common: Qconfig, named: list[tuple[str, Qconfig | None]]
) -> dict[str, Any]:
    """Return the recipe of setters.

    Raises:
        ConfigValueError: A module that there is not.
    """
    nodes = [n.name or "" for n in model.graph]
    rules: list[dict[str, Any]] = [{"where": "all", **_settings(common)}]
    for name, config in reversed(named):  # the last rule that fits holds
        inside = [n for n in nodes if _is_in(n, name)]
        if not inside:
            raise ConfigValueError(
                f"ModuleNameQconfigSetter names '{name}', which the module does not have."
                + did_you_mean(name, nodes)
            )
        settings = _settings(config or Qconfig(None))
        rules += [{"where": {"layer": n}, **settings} for n in inside]
    return {
        "calibrant": 1,
        "target": "horizon-like",
        "bias_correction": "off",
        "equalize": "off",
        "rules": rules,
    }


def _is_in(node: str, module: str) -> bool:
    """Whether a node is of a module, or of one in it."""
    return node.split("/")[0] == module or node.startswith(f"{module}.")


def _fixed(
    qat: Trainable, common: Qconfig, named: list[tuple[str, Qconfig | None]]
) -> frozenset[str]:
    """Return the paths of quantizers whose ranges do not learn.

    A range is of the layers that read it. What is said of single modules among them goes before what is said of all, and one of
    them that keeps its range keeps it for all that read it.
    """
    said: dict[str, list[Qconfig]] = {}
    for d in qat.solution.plan.activations:
        of = said.setdefault(qat.trained.activations[d.id], [])
        for node, _ in d.users:
            config = next((c for name, c in named if _is_in(node, name)), None)
            of += [config] if config is not None else []
    return frozenset(path for path, of in said.items() if any(c.fixed for c in of or [common]))


def _settings(config: Qconfig) -> dict[str, Any]:
    if config.activation is None:
        return {"precision": "float32"}
    return {
        "activation": {"algorithm": "mse", "bits": config.activation, "symmetric": True},
        "weight": {"algorithm": "max", "bits": config.weight},
    }
