"""How a model is scored: a metric on labelled data, a function of the user's own, or the likeness of the outputs.

(data, "top1")               a metric by name, with references beside the samples    (`analysis.evaluate`)
(data, function)             a function (outputs, references) -> number              (`analysis.evaluate`)
function                     a function (runner) -> number, several by name, or one for each sample
Command("… {model}")         a command that is given the file and prints JSON
(data, "cosine_similarity")  without labels: outputs against the float model's, the part that is furthest off counts
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from calibrant.analysis.evaluate import evaluate
from calibrant.analysis.task_metrics import BatchMetric
from calibrant.data.batch import AnyArray
from calibrant.data.digests import data_digest
from calibrant.data.imports import import_function, is_function_name
from calibrant.errors import CalibrantError, ConfigTypeError, ConfigValueError
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact
from calibrant.runtime.session import infer, open_session
from calibrant.runtime.workers import Workers
from calibrant.tuner.likeness import LIKENESSES, Likeness
from calibrant.tuner.looks import Looks, PairedLooks, RatioLooks
from calibrant.tuner.paired import Paired
from calibrant.tuner.samples import Samples
from calibrant.tuner.settling import Settles

__all__ = ["Command", "Evaluator", "Runner", "Score", "evaluator_of"]


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluation says.

    Args:
        value: The score; NaN where there are several.
        samples: Samples it was measured on; 0 where only the user's function knows.
        notes: What is to be said of it.
        several: Scores by name, where there are several.
        look: The score on the few samples that models are looked at on first; None where they say nothing.
        each: One score a sample, where a function of the user's own gives them.
    """

    value: float
    samples: int
    notes: tuple[str, ...] = ()
    several: Mapping[str, float] | None = None
    look: float | None = None
    each: tuple[float, ...] | None = None


class Evaluator(Protocol):
    """Scores models."""

    @property
    def name(self) -> str:
        """Name of the score."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether it knows what is right, or only what the float model says."""
        ...

    @property
    def own(self) -> bool:
        """Whether code of the user's own runs the model, which may score it otherwise each time."""
        ...

    @property
    def paired(self) -> Paired | None:
        """Scores sample by sample, where the score is a mean over samples."""
        ...

    @property
    def settling(self) -> Settles | None:
        """Says what a model reaches on all samples; None where the search sees all there is."""
        ...

    def looks(self, reference: float) -> Looks | None:
        """Return what looks at models on few samples; None where scores are not known so.

        Args:
            reference: What the float model scores.
        """
        ...

    def digest(self) -> str:
        """Return a text that is another one where scores may come out otherwise."""
        ...

    def score(self, model: ir.Model) -> Score:
        """Score a model.

        Raises:
            CalibrantError: It cannot be scored; the message says why.
        """
        ...


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
class _ByMetric:
    """A metric on data with references."""

    data: Any
    metric: Any
    name: str
    higher_is_better: bool
    reading: Mapping[str, Any]
    runtime: Runtime
    labelled: bool = True
    own: bool = False
    paired: Paired | None = None

    @property
    def settling(self) -> Settles | None:
        return self.paired

    def looks(self, reference: float) -> Looks | None:
        return PairedLooks(self.paired) if self.paired is not None else None

    def digest(self) -> str:
        said = repr((self.name, sorted(self.reading.items()), self.runtime.provider))
        return f"{said} {data_digest(self.data)} {_code(self.metric)}"

    def score(self, model: ir.Model) -> Score:
        found = evaluate(
            model,
            self.data,
            self.metric,
            provider=self.runtime.provider,
            threads=self.runtime.threads,
            **self.reading,
        )
        return Score(found.value, found.samples, found.notes)


@dataclass(frozen=True, slots=True, eq=False)
class _ByFunction:
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
        return None

    def digest(self) -> str:
        return f"{self.name} {self.runtime.provider} {_code(self.function)}"

    def score(self, model: ir.Model) -> Score:
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
    return _score(value, f"Evaluation '{name}'", runner.samples)


@dataclass(frozen=True, slots=True)
class Command:
    """A command that scores a model: for scores that are taken on a device, or in another stack.

    Args:
        line: The command, with `{model}` where the path of the ONNX file belongs. Its last line on stdout is JSON: a number, or
            an object of scores by name.

    Raises:
        ConfigValueError: It is empty, or does not say `{model}`.
    """

    line: str

    def __post_init__(self) -> None:
        """Check it."""
        if "{model}" not in self.line:
            raise ConfigValueError(
                f"The evaluation command is '{self.line}'; it says {{model}} where the path of the model belongs."
            )


@dataclass(frozen=True, slots=True, eq=False)
class _ByCommand:
    """A command of the user's own."""

    command: Command
    name: str = "score"
    higher_is_better: bool = True
    labelled: bool = True
    own: bool = True
    paired: Paired | None = None
    settling: Settles | None = None

    def looks(self, reference: float) -> Looks | None:
        return None

    def digest(self) -> str:
        return repr(self.command)

    def score(self, model: ir.Model) -> Score:
        with TemporaryDirectory(prefix="calibrant-") as folder:
            path = Path(folder) / "deploy.onnx"
            ir.save(model, path)
            words = [w.replace("{model}", str(path)) for w in shlex.split(self.command.line)]
            try:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                )
            except OSError as e:
                raise ConfigValueError(
                    f"The evaluation command cannot be run: {e.strerror}: {words[0]}"
                ) from e
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ConfigValueError(
                f"The evaluation command ended with {done.returncode}{f': {said[-1]}' if said else '.'}"
            )
        return _score(_last_json(done.stdout), "The evaluation command", 0)


def _last_json(text: str) -> Any:
    r"""Return what the last lines say as JSON, of one line or several; the last line itself where they say none.

    Example:
        >>> _last_json("4 warnings\n0.5"), _last_json('ready\n{\n  "top1": 0.5\n}\n'), _last_json("ready")
        (0.5, {'top1': 0.5}, 'ready')
    """
    lines = text.strip().splitlines()
    for first in reversed(range(len(lines))):
        try:
            return json.loads("\n".join(lines[first:]))
        except ValueError:
            continue
    return lines[-1] if lines else None


def _score(value: Any, who: str, samples: int) -> Score:
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


@dataclass(slots=True, eq=False)
class _ByLikeness:
    """Outputs against those of the float model."""

    likeness: Likeness
    reading: Mapping[str, Any]
    data: Any
    name: str
    higher_is_better: bool = True
    labelled: bool = False
    own: bool = False
    paired: Paired | None = None
    settling: Settles | None = None
    notes: tuple[str, ...] = field(default=())

    def looks(self, reference: float) -> Looks | None:
        return RatioLooks(self.likeness.look, reference)

    def digest(self) -> str:
        said = repr((self.name, sorted(self.reading.items()), self.likeness.runtime.provider))
        return f"{said} {data_digest(self.data)}"

    def score(self, model: ir.Model) -> Score:
        value, samples = self.likeness.of(model)
        if model is self.likeness.original:
            return Score(value, samples)
        return Score(value, samples, look=self.likeness.telling(model))


def evaluator_of(
    asked: Any,
    original: ir.Model,
    calibration: Any,
    *,
    batch_size: int | None = None,
    preprocess: str | Path | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    holdout: float = 0.0,
    holdout_of_all: float = 0.0,
    confidence: float | None = 0.99,
    workers: Workers | None = None,
) -> Evaluator:
    """Return how models are scored.

    Args:
        asked: A function (runner) -> number, or its name as `module:function`; a `Command`; a pair (data, metric); or None, which
            scores without labels on the calibration data.
        original: The float model.
        calibration: The calibration data.
        batch_size: Samples in a batch.
        preprocess: File that says how stored samples become inputs.
        provider: Where models run.
        threads: Threads inside an operator.
        holdout: Share of the samples that the search does not see, where the score is a mean over samples.
        holdout_of_all: The same, where the score is a metric of all samples together.
        confidence: That an evaluation which ends early is right; None for certain ends alone.
        workers: Who runs models for a metric by name; None for this process alone.

    Raises:
        ConfigValueError: A metric or a function that does not exist.
        ConfigTypeError: None of these.
    """
    runtime = Runtime(provider, threads)
    if isinstance(asked, Command):
        return _ByCommand(asked)
    if isinstance(asked, str) and is_function_name(asked):
        function = import_function(asked, what="Evaluation", error=ConfigValueError)
        return _ByFunction(function, asked, _direction(function), runtime, workers)
    if callable(asked):
        return _ByFunction(asked, _name(asked), _direction(asked), runtime)
    if asked is None:
        asked = (calibration, LIKENESSES[0])
    if not isinstance(asked, tuple) or len(asked) != 2:
        raise ConfigTypeError(
            f"evaluate is a {type(asked).__name__}; it is a function (runner) -> number, its name as module:function, "
            "a pair (data, metric), or None to compare outputs with the float model's."
        )
    data, metric = asked
    data = list(data) if isinstance(data, Iterator) else data
    reading = {"batch_size": batch_size, "preprocess": preprocess}
    if isinstance(metric, str) and metric in LIKENESSES:
        likeness = Likeness(original, data, metric, runtime, reading, workers)
        return _ByLikeness(likeness, reading, data, metric)
    if isinstance(metric, str):
        if is_function_name(metric):
            function = import_function(metric, what="Metric", error=ConfigValueError)
            return _ByMetric(
                data, function, metric, _direction(function), reading, runtime, own=True
            )
        from calibrant.analysis.tasks.registry import task_metric
        from calibrant.tuner.corpus import ByCorpus

        found = task_metric(metric, beside=LIKENESSES)
        share = holdout if isinstance(found, BatchMetric) else holdout_of_all
        samples = Samples(data, original, runtime, batch_size, preprocess, share, workers=workers)
        if not isinstance(found, BatchMetric):
            return ByCorpus(samples, found, metric)
        paired = Paired(samples, found, confidence)
        better = found.higher_is_better
        return _ByMetric(data, metric, metric, better, reading, runtime, paired=paired)
    if callable(metric):
        return _ByMetric(
            data, metric, _name(metric), _direction(metric), reading, runtime, own=True
        )
    raise ConfigTypeError(f"metric is a {type(metric).__name__}; it is a name or a function.")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _direction(function: Any) -> bool:
    return bool(getattr(function, "higher_is_better", True))


def _code(function: Any) -> str:
    """Return a digest of the file that a function stands in; empty where there is none."""
    if isinstance(function, str):
        return ""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
    except (TypeError, OSError):
        return ""
