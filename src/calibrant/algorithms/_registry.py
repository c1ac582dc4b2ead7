"""Which algorithms there are, and how one is made from its name and options."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from calibrant.algorithms._problem import RoundingProblem
from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.numerics import QuantParams, QuantSpec
from calibrant.stats import TensorStats

if TYPE_CHECKING:  # pydantic loads on use
    from calibrant.algorithms.options import Option
else:
    Option = Any

__all__ = [
    "ActivationAlgorithm",
    "CodebookAlgorithm",
    "Option",
    "RangeAlgorithm",
    "RoundingAlgorithm",
    "WeightAlgorithm",
    "activation",
    "describe",
    "names",
    "register_activation",
    "register_weight",
    "weight",
]

Kind = Literal["activation", "weight"]
T = TypeVar("T", bound=type)


class ActivationAlgorithm(Protocol):
    """Chooses the grid of an activation from its statistics."""

    def __call__(self, stats: TensorStats, spec: QuantSpec, /) -> QuantParams:
        """Return the parameters.

        Raises:
            DataError: There are no values, or some are NaN or infinite.
            ConfigValueError: The algorithm cannot do what the spec asks.
        """
        ...


@runtime_checkable
class RangeAlgorithm(Protocol):
    """An activation algorithm whose grid is that of a range, so that the ranges of many channels are turned into grids at once."""

    def range_of(self, stats: TensorStats, spec: QuantSpec, /) -> tuple[float, float]:
        """Return the ends of the range; errors are those of a call."""
        ...


class WeightAlgorithm(Protocol):
    """Chooses the grid of a weight from the weight itself."""

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec, /) -> QuantParams:
        """Return the parameters: scale () per tensor, (channels,) along `spec.axis`.

        Raises:
            DataError: There are no values, or some are NaN or infinite.
            ConfigValueError: The algorithm cannot do what the spec asks.
        """
        ...


@runtime_checkable
class CodebookAlgorithm(Protocol):
    """A weight algorithm that keeps a few values of the 8-bit grid.

    Conv (2-D, one group, not dilated), Gemm and MatMul with a constant matrix can have such weights.
    """

    @property
    def rounds(self) -> int:
        """How often the values are chosen anew by what the layer answers to calibration data."""
        ...

    @property
    def storage(self) -> Literal["int8", "indices"]:
        """How the deployable model stores the weight: as int8, or as 4-bit indices into its 16 values."""
        ...

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec, /) -> QuantParams:
        """Return the parameters, as any weight algorithm."""
        ...

    def codebook(
        self,
        values: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float64] | None = None,
    ) -> tuple[int, ...]:
        """Return the 16 or 32 values to keep, in ascending order.

        Args:
            values: The weight on the grid, of any shape [steps].
            weights: What an error of one step in each value counts, of that shape; None for 1.
        """
        ...


@runtime_checkable
class RoundingAlgorithm(Protocol):
    """A weight algorithm that rounds by what the layer answers to calibration data.

    Its scale is chosen first, and the weight rounded to nearest. Then `learn` is asked once a layer, from the
    input of the model to its output.
    """

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec, /) -> QuantParams:
        """Return the parameters, as any weight algorithm."""
        ...

    def learn(self, problem: RoundingProblem, /) -> npt.NDArray[np.float32]:
        """Return the weight on its grid, (groups, out, K): whole numbers in [qmin, qmax].

        An output channel that answers no better than rounded to nearest is rounded to nearest.
        """
        ...


_registered: dict[Kind, dict[str, type]] = {"activation": {}, "weight": {}}


def register_activation(name: str) -> Callable[[T], T]:
    """Register a class of `ActivationAlgorithm`, decorated with `options`, under a name."""
    return _register("activation", name)


def register_weight(name: str) -> Callable[[T], T]:
    """Register a class of `WeightAlgorithm`, decorated with `options`, under a name."""
    return _register("weight", name)


def activation(name: str, **options: Any) -> ActivationAlgorithm:
    """Make an activation algorithm.

    Args:
        name: One of `names()["activation"]`.
        options: Options that differ from their defaults; `describe` lists them.

    Raises:
        ConfigValueError: An unknown name or option, or a value outside what is allowed.
        ConfigTypeError: A value of the wrong type.

    Example:
        >>> activation("percentile", percentile=0.999)
        Percentile(percentile=0.999)
    """
    return cast(ActivationAlgorithm, _make("activation", name, options))


def weight(name: str, **options: Any) -> WeightAlgorithm:
    """Make a weight algorithm; arguments and errors as for `activation`."""
    return cast(WeightAlgorithm, _make("weight", name, options))


def names() -> dict[str, list[str]]:
    """Return the names there are, sorted.

    Example:
        >>> "arq" in names()["weight"]
        True
    """
    return {kind: sorted(table) for kind, table in _discovered().items()}


def describe(kind: Kind, name: str) -> list[Option]:
    """Return the options of an algorithm: field, default, what is allowed, and what it does.

    Raises:
        ConfigValueError: An unknown name.

    Example:
        >>> [o.name for o in describe("activation", "percentile")]
        ['percentile']
    """
    from calibrant.algorithms.options import describe_options

    return describe_options(_find(kind, name))


def about(kind: Kind, name: str) -> str:
    """Return what an algorithm does, in the one line that it says of itself.

    Raises:
        ConfigValueError: An unknown name.

    Example:
        >>> about("weight", "max")
        'Cover every weight, with a grid that is the same on either side of zero.'
    """
    return (inspect.getdoc(_find(kind, name)) or "").partition("\n")[0]


def _register(kind: Kind, name: str) -> Callable[[T], T]:
    def add(cls: T) -> T:
        known = _registered[kind].get(name)
        if known is not None and known.__module__ != cls.__module__:
            raise ConfigValueError(
                f"Two {kind} algorithms are called '{name}': one in {known.__module__} and one in "
                f"{cls.__module__}. Give one of them another name."
            )
        _registered[kind][name] = cls
        return cls

    return add


@cache
def _discovered() -> dict[Kind, dict[str, type]]:
    """Import every file of the two packages and every entry point, once."""
    for package in ("activations", "weights"):
        parent = importlib.import_module(f"calibrant.algorithms.{package}")
        for module in pkgutil.iter_modules(parent.__path__, f"{parent.__name__}."):
            importlib.import_module(module.name)
    for entry in entry_points(group="calibrant.algorithms"):
        entry.load()
    return _registered


def _find(kind: Kind, name: str) -> type:
    table = _discovered()[kind]
    if name not in table:
        raise ConfigValueError(
            f"Unknown {kind} algorithm '{name}'. Known: {', '.join(sorted(table))}."
            + did_you_mean(name, table)
        )
    return table[name]


def _make(kind: Kind, name: str, options: dict[str, Any]) -> object:
    cls = _find(kind, name)
    from calibrant.algorithms.options import build

    return build(cls, f"{kind} algorithm '{name}'", options)
