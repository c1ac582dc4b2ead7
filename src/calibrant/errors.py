"""Everything calibrant raises on purpose, and the "did you mean" helper.

    CalibrantError
    ├── ModelError               the model cannot be read, checked, or quantized
    ├── DataError                calibration or evaluation data is missing, misshapen, or not finite
    ├── ConfigError              a recipe, a vendor configuration or an option is wrong
    │   ├── ConfigValueError     … a value outside what is allowed (also a ValueError)
    │   ├── ConfigTypeError      … a value of the wrong type (also a TypeError)
    │   └── ConfigRuntimeError   … a valid text that asks for nothing (also a RuntimeError)
    ├── UnsupportedError         a correct request that calibrant does not implement
    ├── OutputError              a result cannot be written
    └── MissingPackageError      an optional package is needed and not installed

A message says what was wrong (the value, quoted), where (file and line, key path, node or tensor) and
what is allowed, with a near name where there is one. The command line prints it as one sentence and
exits with the class's `exit_code`. A file with several errors tells all of them at once (`Problems`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

__all__ = [
    "CalibrantError",
    "ConfigError",
    "ConfigRuntimeError",
    "ConfigTypeError",
    "ConfigValueError",
    "DataError",
    "MissingPackageError",
    "ModelError",
    "OutputError",
    "Problems",
    "UnsupportedError",
    "did_you_mean",
    "together",
]


class CalibrantError(Exception):
    """Base of every error that calibrant raises on purpose.

    `parts` holds the errors that one of several is made of; it is empty for an error alone.
    """

    exit_code = 1
    parts: tuple[CalibrantError, ...] = ()


class ModelError(CalibrantError):
    """The model cannot be read, is not valid, or cannot be quantized as it is."""

    exit_code = 3


class DataError(CalibrantError):
    """Calibration or evaluation data is missing, misshapen, empty or not finite."""

    exit_code = 4


class ConfigError(CalibrantError):
    """A recipe, a vendor configuration or an option is wrong."""

    exit_code = 5


class ConfigValueError(ConfigError, ValueError):
    """A configuration value lies outside what is allowed, or names what does not exist."""


class ConfigTypeError(ConfigError, TypeError):
    """A configuration value has the wrong type."""


class ConfigRuntimeError(ConfigError, RuntimeError):
    """A configuration is well formed but asks for nothing to be quantized."""


class UnsupportedError(CalibrantError):
    """The request is understood and not implemented; the message says what is."""

    exit_code = 6


class OutputError(CalibrantError):
    """A result cannot be written; what was on disk before is still there."""

    exit_code = 7


class MissingPackageError(CalibrantError):
    """An optional package is needed; the message says how to install it."""

    exit_code = 9  # 8 is a run that ends with the best it found (`cli.tune`)


_E = TypeVar("_E", bound=CalibrantError)

#: How many errors of one file are told in a sentence behind the first.
_MOST = 25


def together(errors: Sequence[_E]) -> _E:
    """Return several errors as one: of the class of the first, with its sentence first and with all as `parts`.

    Args:
        errors: One or more; one alone is returned as it is.
    """
    if len(errors) == 1:
        return errors[0]
    others = errors[1:]
    listed = [f"({n}) {e}" for n, e in enumerate(others[:_MOST], 1)]
    end = ["…"] if len(others) > _MOST else []
    text = " ".join([str(errors[0]), f"And {len(others)} more:", *listed, *end])
    error = type(errors[0])(text)
    error.parts = tuple(errors)
    return error


class Problems:
    """Errors of one file, kept until all of it is read and told together.

    Example:
        >>> problems = Problems()
        >>> with problems.caught():
        ...     raise ConfigValueError("line 2: a is 0.")
        >>> with problems.caught():
        ...     raise ConfigValueError("line 5: b is 0.")
        >>> problems.check()
        Traceback (most recent call last):
        calibrant.errors.ConfigValueError: line 2: a is 0. And 1 more: (1) line 5: b is 0.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._found: list[CalibrantError] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep an error about the configuration, or a request that is not implemented, and go on behind the block."""
        try:
            yield
        except (ConfigError, UnsupportedError) as e:
            self.add(e)

    def add(self, *errors: CalibrantError) -> None:
        """Keep errors; one that was kept already is left out."""
        told = {str(e) for e in self._found}
        for error in (part for e in errors for part in e.parts or (e,)):
            if str(error) not in told:
                self._found.append(error)
                told.add(str(error))

    @property
    def errors(self) -> tuple[CalibrantError, ...]:
        """What was kept."""
        return tuple(self._found)

    def check(self) -> None:
        """Raise what was kept, if anything was.

        Raises:
            CalibrantError: See `together`.
        """
        if self._found:
            raise together(self._found)


#: Letters that a name has to have for names that begin with it to be offered.
_LEAST_BEGINNING = 3


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return `" Did you mean 'conv1'?"` for a near name, or an empty string.

    Args:
        name: What was asked for.
        known: What exists.
        limit: Most names to offer.

    Example:
        >>> did_you_mean("conv_1", ["conv1", "fc"])
        " Did you mean 'conv1'?"
        >>> did_you_mean("x", ["conv1"])
        ''
    """
    known = list(known)
    folded = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), folded, n=limit, cutoff=0.6)
    if not near and len(name) >= _LEAST_BEGINNING:
        near = [n for n in folded if n.startswith(name.lower())][:limit]
    if not near:
        return ""
    quoted = [f"'{folded[n]}'" for n in near]
    return f" Did you mean {' or '.join(quoted)}?"
