"""Scores from code of the user's own: a function that is given a model to run."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from calibrant.data.batch import AnyArray
from calibrant.data.imports import import_function
from calibrant.errors import CalibrantError, ConfigTypeError, ConfigValueError
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.workers import Workers
from calibrant.tuner.evaluator import Score
from calibrant.tuner.looks import Looks
from calibrant.tuner.paired import Paired
from calibrant.tuner.settling import Settles

__all__ = ["ByFunction", "Runner", "code_digest", "score_of"]


class Runner:
    """A model that can be run: what a function of the user's own is given.

        def evaluate(runner):
            outputs = runner({"image": images})      # {"scores": array, …}
            return accuracy(outputs["scores"], labels)

    Args:
        model: The model.
        provider: Where it runs.
        threads: Threads inside an operator.
    """

    def __init__(self, model: ir.Model, provider: str = "cpu", threads: int | None = None) -> None:
        """Open it."""
        runtime = Runtime(provider, threads)
        self._model = model
        self._session = open_session(model, runtime=runtime, integers=kernels_are_exact(runtime))
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        self.samples = 0

    def __call__(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return the outputs by name.

        Args:
            feeds: An array for each input of the model; others are passed over.

        Raises:
            ModelError: The model cannot be run on them.
        """
        missing = [n for n in self.inputs if n not in feeds]
        if missing:
            raise ConfigValueError(
                f"The runner is fed without '{missing[0]}', which the model reads."
            )
        used = {n: np.asarray(feeds[n]) for n in self.inputs}
        sizes = [x.shape[0] for x in used.values() if x.ndim]
        self.samples += sizes[0] if sizes else 1
        return dict(zip(self.outputs, infer(self._session, list(self.outputs), used), strict=True))

    def save(self, path: str | Path) -> Path:
        """Write the model as an ONNX file, for an evaluation that runs it elsewhere."""
        ir.save(self._model, path)
        return Path(path)


@dataclass(frozen=True, slots=True, eq=False)
class ByFunction:
    """A function of the user's own that runs the model."""

    function: Callable[[Runner], Any]
    name: str
    higher_is_better: bool
    runtime: Runtime
    workers: Workers | None = None
    labelled: bool = True
    own: bool = True
    paired: Paired | None = None
    settling: Settles | None = None

    def looks(self, reference: float) -> Looks | None:
        """Return None: the user's code scores all samples at once."""
        return None

    def digest(self) -> str:
        """Return a text that is another one where scores may come out otherwise."""
        return f"{self.name} {self.runtime.provider} {code_digest(self.function)}"

    def score(self, model: ir.Model) -> Score:
        """Score a model.

        Raises:
            CalibrantError: The user's code failed, or gave no score.
        """
        if self.workers is None:
            return _by_function(self.function, self.name, model, self.runtime)
        given = _Named(self.name, str(Path.cwd()), self.runtime)
        proto = bytes(ir.to_proto(model).SerializeToString())
        return next(iter(self.workers.map(_by_name, [proto], given)))


@dataclass(frozen=True, slots=True)
class _Named:
    """A function that the user named, for a worker that imports it by that name.

    Args:
        name: `module:function`.
        folder: Where its module and the files that it reads are found.
        runtime: Where models run.
    """

    name: str
    folder: str
    runtime: Runtime


def _by_name(named: _Named, proto: bytes) -> Score:
    """Score a model with a function that is imported here."""
    os.chdir(named.folder)
    function = import_function(named.name, what="Evaluation", error=ConfigValueError)
    model = ir.from_proto(onnx.load_model_from_string(proto))
    return _by_function(function, named.name, model, named.runtime)


def _by_function(
    function: Callable[[Runner], Any], name: str, model: ir.Model, runtime: Runtime
) -> Score:
    """Score a model with a function of the user's own."""
    runner = Runner(model, runtime.provider, runtime.threads)
    here = Path.cwd()
    try:
        value = function(runner)
    except CalibrantError:
        raise
    except (Exception, SystemExit) as e:  # the user's code may raise anything
        raise ConfigValueError(f"Evaluation '{name}' failed: {type(e).__name__}: {e}.") from e
    finally:
        os.chdir(here)  # where the user's code went is its own affair
    return score_of(value, f"Evaluation '{name}'", runner.samples)


def score_of(value: Any, who: str, samples: int) -> Score:
    """Return what an evaluation of the user's own said, as a score.

    Raises:
        ConfigTypeError: It is no number, no mapping of numbers, and no array of one number a sample.
    """
    if isinstance(value, Mapping) and value:
        return Score(
            math.nan, samples, several={str(n): _number(v, who) for n, v in value.items()}
        )
    if not isinstance(value, str | bytes) and _dimensions(value) == 1 and len(value):
        flags = isinstance(value, np.ndarray) and value.dtype == bool  # right or wrong, by sample
        each = tuple(float(v) if flags else _number(v, who) for v in value)
        return Score(float(np.mean(each)), len(each), each=each)
    return Score(_number(value, who), samples)


def _dimensions(value: Any) -> int | None:
    """Return how many axes a value has; None where its parts differ in length."""
    try:
        return int(np.ndim(value))
    except ValueError:
        return None


def _number(value: Any, who: str) -> float:
    strange = isinstance(value, str | bytes | bool | np.bool_) or value is None
    if _dimensions(value) == 0 and not strange:
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise ConfigTypeError(
        f"{who} gives a {type(value).__name__} ({value!r:.60}); it gives a number, a mapping of numbers by name, or one number "
        "a sample."
    )


def code_digest(function: Any) -> str:
    """Return a digest of the file that a function stands in; empty where there is none."""
    if isinstance(function, str):
        return ""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except (TypeError, OSError):
        return ""
