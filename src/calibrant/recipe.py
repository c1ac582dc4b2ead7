"""What is wanted: a Recipe is an ordered list of rules, and the last rule that matches wins.

A recipe names no model. It can be stored, compared, sent to a worker or changed by a tuner; `plan.resolve`
brings it together with a model and says which rule decided each field. Every vendor dialect ends here:
"layer over type over common" and "node over op over model" are both a matter of order.

    Recipe
    ├── rules        Rule(where, settings, origin), …     settings merge by field, later rules over earlier
    ├── target       the device profile, by name (graph/targets)
    ├── calibration  how much data, and whether on histograms or on raw values
    ├── fusion       batch normalization folding and its skip list
    ├── bias_correction, equalize, rounding               passes over the whole model
    └── notes        what a dialect asked for that cannot be honoured, and why
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.numerics.dtype import INT_BITS

__all__ = [
    "AlgorithmChoice",
    "AllNodes",
    "Calibration",
    "Compute",
    "Fusion",
    "Layer",
    "LayerInput",
    "Note",
    "OpType",
    "Recipe",
    "Rule",
    "Settings",
    "Subgraph",
    "Switch",
    "Where",
]

Compute = Literal["int", "float16", "float32"]
Switch = Literal["auto", "on", "off"]


# ---------------------------------------------------------------------------------------------- where


@dataclass(frozen=True, slots=True)
class AllNodes:
    """Every node."""

    def __str__(self) -> str:
        return "all"


@dataclass(frozen=True, slots=True)
class OpType:
    """Nodes of one type, in any edition's spelling: `Conv`, `Conv2d`, `Convolution`, `Linear`, …"""

    name: str

    def __str__(self) -> str:
        return f"op {self.name}"


@dataclass(frozen=True, slots=True)
class Layer:
    """Nodes whose name equals `name`; with `*`, `?` or `[…]` in it, nodes that match the pattern."""

    name: str

    def __str__(self) -> str:
        return f"layer {self.name}"


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One input of one node, counted from 0."""

    name: str
    index: int

    def __str__(self) -> str:
        return f"input {self.index} of {self.name}"


@dataclass(frozen=True, slots=True)
class Subgraph:
    """Nodes on any path from `inputs` to `outputs`, each a node or tensor name, both ends included."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return f"subgraph {self.name}"


Where = AllNodes | OpType | Layer | LayerInput | Subgraph


# ------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, slots=True)
class AlgorithmChoice:
    """A registered algorithm and the options that differ from its defaults.

    Args:
        name: Name in `algorithms.names()`, or `auto` to let the statistics decide.
        options: Option name and value, sorted by name; values are numbers, strings, bools or tuples.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any] | None = None) -> AlgorithmChoice:
        """Make a choice from a mapping of options; lists become tuples."""
        items = sorted((options or {}).items())
        return cls(name, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in items))

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v}" for k, v in self.options)
        return f"{self.name}({inner})" if inner else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Partial settings of a node; a field that is None says nothing.

    Args:
        compute: `int` quantizes the node; `float16` and `float32` leave it in that precision.
        activation: Algorithm that chooses the range of its activations.
        activation_bits: 8 or 16.
        activation_symmetric: Zero point 0.
        activation_per_channel: One scale a channel (axis 1) instead of one a tensor.
        weight: Algorithm that chooses the scale of its weight.
        weight_bits: 4, 6, 7, 8 or 16.
        weight_per_channel: One scale an output channel instead of one a tensor.
        balance: Strength of moving difficulty from activations to weights (DMQ), 0.2 to 0.8.

    Raises:
        ConfigValueError: A bit width that does not exist for the tensor.
    """

    compute: Compute | None = None
    activation: AlgorithmChoice | None = None
    activation_bits: int | None = None
    activation_symmetric: bool | None = None
    activation_per_channel: bool | None = None
    weight: AlgorithmChoice | None = None
    weight_bits: int | None = None
    weight_per_channel: bool | None = None
    balance: float | None = None

    def __post_init__(self) -> None:
        if self.activation_bits not in (None, 8, 16):
            raise ConfigValueError(f"activation bits is {self.activation_bits!r}; it is 8 or 16.")
        if self.weight_bits is not None and self.weight_bits not in INT_BITS:
            allowed = ", ".join(map(str, INT_BITS))
            raise ConfigValueError(f"weight bits is {self.weight_bits!r}; it is one of {allowed}.")
        if self.balance is not None and not 0.2 <= self.balance <= 0.8:
            raise ConfigValueError(f"balance is {self.balance!r}; it lies in [0.2, 0.8].")

    @classmethod
    def of_precision(cls, precision: str) -> Settings:
        """Return the settings that a precision's name stands for.

        `int8`: activations and weights 8 bits; `int16`: both 16; `int4`: weights 4, activations 8;
        `float16`, `float32`: not quantized.

        Raises:
            ConfigValueError: An unknown precision.
        """
        known: dict[str, Settings] = {
            "int4": cls(compute="int", activation_bits=8, weight_bits=4),
            "int8": cls(compute="int", activation_bits=8, weight_bits=8),
            "int16": cls(compute="int", activation_bits=16, weight_bits=16),
            "float16": cls(compute="float16"),
            "float32": cls(compute="float32"),
        }
        if precision not in known:
            raise ConfigValueError(
                f"Unknown precision '{precision}'. Known: {', '.join(known)}."
                + did_you_mean(precision, known)
            )
        return known[precision]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields that are set, with their values."""
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                yield f.name, value

    def over(self, base: Settings) -> Settings:
        """Return `base` with every field that is set here replaced."""
        return replace(base, **dict(self.items()))


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings for the nodes that `where` selects.

    Args:
        where: Which nodes.
        settings: What holds there.
        origin: Where the rule stands, for messages: `recipe.yaml: rules[2]`, `quant.cfg:14
            override_layer_configs 'conv1'`, `command line`.
    """

    where: Where
    settings: Settings
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How much data, and how its values are kept.

    Args:
        batch_size: Samples in a batch; None takes what fits (or what the data source says).
        batch_num: Batches used; None takes all.
        exact: Keep the raw values instead of histograms, for results equal to the vendors' to the
            last digit. Memory grows with the data.
    """

    batch_size: int | None = None
    batch_num: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_num"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value < 1):
                raise ConfigValueError(f"calibration.{name} is {value!r}; it is 1 or more.")


@dataclass(frozen=True, slots=True)
class Fusion:
    """Folding of batch normalization into the layer before it.

    Args:
        batch_norm: Fold where possible.
        skip: Layers whose batch normalization stays.
    """

    batch_norm: bool = True
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """Something a configuration says that is not done as written, and why.

    Args:
        where: Key path or file and line.
        message: One sentence.
        honoured: False when the request is dropped; True when it is met in another way.
    """

    where: str
    message: str
    honoured: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is wanted, for any model."""

    rules: tuple[Rule, ...] = ()
    target: str = "generic"
    calibration: Calibration = field(default_factory=Calibration)
    fusion: Fusion = field(default_factory=Fusion)
    bias_correction: Switch = "auto"
    equalize: Switch = "auto"
    rounding: Switch = "auto"
    notes: tuple[Note, ...] = ()

    def with_rules(self, *rules: Rule) -> Recipe:
        """Return the recipe with rules added at the end, so that they win."""
        return replace(self, rules=self.rules + rules)
