"""What may hold for a node: algorithms, widths, symmetry, and what else a rule can set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.numerics.dtype import INT_BITS
from calibrant.numerics.metrics import get_metric
from calibrant.recipe._shown import shown

__all__ = ["FROM_MODEL", "AlgorithmChoice", "Compute", "Settings"]

Compute = Literal["int", "float16", "float32"]

#: The activation algorithm that keeps the scales a trained model has.
FROM_MODEL = "from-model"


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

    def __repr__(self) -> str:
        return shown(self)

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v}" for k, v in self.options)
        return f"{self.name}({inner})" if inner else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Partial settings of a node; a field that is None says nothing.

    Args:
        compute: `int` quantizes the node; `float16` and `float32` leave it in that precision.
        activation: Algorithm that chooses the range of its activations.
        activation_bits: 4, 8 or 16.
        activation_symmetric: Zero point 0.
        activation_per_channel: One scale a channel (axis 1) instead of one a tensor.
        weight: Algorithm that chooses the scale of its weight.
        weight_bits: 4, 6, 7, 8 or 16.
        weight_per_channel: One scale an output channel instead of one a tensor.
        balance: Strength of moving difficulty from activations to weights (DMQ), 0.2 to 0.8; 0 takes
            back what an earlier rule asks for.
        compensation: An 8-bit value gets a second 8-bit value, for what the rounding of the first
            leaves, beside it (`numerics.compensation`).
        candidates: Activation settings to try, each laid over these and under those of later rules; () for
            none. `Recipe.search` says how one of them is chosen.
        bias_samples: Samples that the correction of the bias is taken from; 0 leaves the bias.
        bias_metric: Metric by which a corrected bias must be better to be kept.

    Raises:
        ConfigTypeError: An algorithm that is no `AlgorithmChoice`.
        ConfigValueError: A bit width that does not exist for the tensor, a number out of range, or an
            unknown metric.

    Example:
        >>> Settings(activation=AlgorithmChoice("mse"), activation_bits=16)
        Settings(activation=AlgorithmChoice(name='mse'), activation_bits=16)
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
    compensation: bool | None = None
    candidates: tuple[Settings, ...] | None = None
    bias_samples: int | None = None
    bias_metric: str | None = None

    def __repr__(self) -> str:
        return shown(self)

    def __post_init__(self) -> None:
        for name in ("activation", "weight"):
            choice = getattr(self, name)
            if choice is not None and not isinstance(choice, AlgorithmChoice):
                raise ConfigTypeError(
                    f"{name} is {choice!r}; it is an AlgorithmChoice, such as AlgorithmChoice('mse')."
                )
        if self.activation_bits not in (None, 4, 8, 16):
            raise ConfigValueError(
                f"activation bits is {self.activation_bits!r}; it is 4, 8 or 16."
            )
        if self.weight_bits is not None and self.weight_bits not in INT_BITS:
            allowed = ", ".join(map(str, INT_BITS))
            raise ConfigValueError(f"weight bits is {self.weight_bits!r}; it is one of {allowed}.")
        if self.balance and not 0.2 <= self.balance <= 0.8:
            raise ConfigValueError(f"balance is {self.balance!r}; it lies in [0.2, 0.8], or is 0.")
        if self.bias_samples is not None and self.bias_samples < 0:
            raise ConfigValueError(f"bias samples is {self.bias_samples!r}; it is 0 or more.")
        if self.bias_metric is not None:
            get_metric(self.bias_metric)

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
        for name in _NAMES:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def over(self, base: Settings) -> Settings:
        """Return `base` with every field that is set here replaced."""
        return replace(base, **dict(self.items()))


#: Names of the fields, in order.
_NAMES = tuple(f.name for f in fields(Settings))
