"""Measure a quantized model against its float model: the outputs, and the time they take."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calibrant.numerics.finite import finite_pairs
from calibrant.runtime.arena import shrink_arena
from calibrant.runtime.part_quality import PartQuality
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.session import infer, open_session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Latency", "OutputQuality", "compare", "mean_sqnr_db", "measure_latency", "run"]

Array = npt.NDArray[Any]
Outputs = list[dict[str, Array]]

#: The same, to be read, however it is kept.
Answered = Sequence[Mapping[str, Array]]

#: Quantile of the normal distribution at 99 %.
_SIGN = 2.33

#: SQNR is averaged over outputs after it is limited to this range [dB].
SQNR_LIMITS = (-20.0, 120.0)


@dataclass(frozen=True, slots=True)
class OutputQuality:
    """One output of the quantized model beside the float one.

    Args:
        name: Name of the output.
        sqnr_db: 10 log10(sum a**2 / sum (a - b)**2) over all samples; inf where equal.
        cosine: Cosine similarity of all samples at once.
        max_error: Largest absolute difference.
        top1_agreement: Share of samples with equal argmax along the last axis, where it is longer
            than 1; None otherwise.
        distinct_share: Distinct values of the quantized output over those of the float one, a sample of
            them, or over 256 where these are more; near 0 where the output has collapsed.
        parts: The parts of the output that are judged by themselves; one where it has none.
    """

    name: str
    sqnr_db: float
    cosine: float
    max_error: float
    top1_agreement: float | None
    distinct_share: float
    parts: tuple[PartQuality, ...] = ()


def run(
    model: str | Path | bytes | onnx.ModelProto | ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    *,
    runtime: Runtime = CPU,
    optimize: bool = True,
    integers: bool = True,
) -> Outputs:
    """Return the outputs of a model for each feed.

    Raises:
        ModelError: ONNX Runtime cannot load or run the model.
    """
    session = open_session(model, runtime=runtime, optimize=optimize, integers=integers)
    inputs = [i.name for i in session.get_inputs()]
    names = [o.name for o in session.get_outputs()]
    shrinking = shrink_arena() if runtime.provider == "cpu" else None
    outputs = []
    for i, feed in enumerate(feeds, 1):
        options = shrinking if i == len(feeds) else None
        values = infer(session, names, {n: feed[n] for n in inputs}, options)
        outputs.append(dict(zip(names, values, strict=True)))
    return outputs


def compare(reference: Answered, outputs: Answered) -> list[OutputQuality]:
    """Compare the floating point outputs of two models, in the order of the first.

    Left out are outputs of other types (labels, indices), and outputs whose shape depends on the data and
    came out differently (boxes that are left after a selection): their values have no partners. Positions where
    the first model is not finite are left out; a quantized output that is not finite elsewhere has an SQNR of -inf.
    """
    names = [
        n
        for n, x in reference[0].items()
        if np.asarray(x).dtype.kind == "f"
        and all(np.shape(a[n]) == np.shape(b[n]) for a, b in zip(reference, outputs, strict=True))
    ]
    return [_quality(name, reference, outputs) for name in names]


def _quality(name: str, reference: Answered, outputs: Answered) -> OutputQuality:
    power = error = dot = power_b = largest = 0.0
    agree = rows = 0
    pairs = [(r[name], o[name]) for r, o in zip(reference, outputs, strict=True)]
    for a32, b32 in pairs:
        a, b = np.asarray(a32, dtype=np.float64), np.asarray(b32, dtype=np.float64)
        if a.ndim >= 2 and a.shape[-1] > 1:
            same = a.argmax(axis=-1) == b.argmax(axis=-1)
            agree, rows = agree + int(same.sum()), rows + same.size
        a, b = finite_pairs(a, b)
        power += float(np.vdot(a, a))
        power_b += float(np.vdot(b, b))
        dot += float(np.vdot(a, b))
        difference = a - b
        error += float(np.vdot(difference, difference))
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
    finite = np.isfinite([error, power_b]).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = 10 * np.log10(power / error) if error else np.inf
        cosine = dot / np.sqrt(power * power_b) if power and power_b else float(power == power_b)
    a_all = np.concatenate([np.ravel(a)[:4096] for a, _ in pairs[:8]])
    b_all = np.concatenate([np.ravel(b)[:4096] for _, b in pairs[:8]])
    return OutputQuality(
        name,
        float(sqnr) if finite else -np.inf,
        float(cosine) if finite else np.nan,
        largest if finite else np.inf,
        agree / rows if rows else None,
        min(1.0, np.unique(b_all).size / min(256, max(1, np.unique(a_all).size))),
    )


def mean_sqnr_db(qualities: Sequence[OutputQuality]) -> float:
    """Average SQNR over the outputs [dB], each limited to [-20, 120]."""
    if not qualities:
        return SQNR_LIMITS[1]
    return float(np.mean([np.clip(q.sqnr_db, *SQNR_LIMITS) for q in qualities]))


@dataclass(frozen=True, slots=True)
class Latency:
    """Median wall time of one inference, of both models in turn [ms].

    Args:
        float_ms: Of the float model.
        quantized_ms: Of the quantized model.
        threads: Threads inside an operator.
        runs: Runs of each.
        faster: Runs in which the quantized model took less than the float one just before it.
        share: Median of what it took over what the float one took just before; 0 where that is not known.
    """

    float_ms: float
    quantized_ms: float
    threads: int | None
    runs: int
    faster: int = 0
    share: float = 0.0

    @property
    def surely_faster(self) -> bool:
        """Whether the quantized model is faster with 99 % confidence: the sign test, which no single slow run can sway.

        Were both equally fast, either would win a pair with a probability of 1/2, and `faster` of n pairs be above
        n / 2 + 2.33 sqrt(n) / 2 in one of 100 cases. Source: Dixon, Mood, "The statistical sign test", JASA 41, 1946.
        """
        return self.faster > self.runs / 2 + _SIGN * math.sqrt(self.runs) / 2

    @property
    def speedup(self) -> float:
        """Float over quantized: above 1 the quantized model is faster."""
        return self.float_ms / self.quantized_ms


def measure_latency(
    float_model: ir.Model | str | Path | bytes,
    quantized: ir.Model | str | Path | bytes,
    feed: Mapping[str, Array],
    *,
    runtime: Runtime = CPU,
    seconds: float = 0.6,
    least_runs: int = 5,
    most_runs: int = 500,
    steady: float = 0.0,
) -> Latency:
    """Time both models on one feed, in turn, so that a slow moment of the machine meets both.

    The standard error of a median of n times is near 0.93 (q75 - q25) / sqrt(n), as it is for a normal distribution.

    Args:
        float_model: The float model.
        quantized: The quantized model.
        feed: Inputs of both.
        runtime: Where they run.
        seconds: When to stop, after `least_runs` runs of each.
        least_runs: Runs of each in any case.
        most_runs: When to stop earlier; small models need no more for a steady median.
        steady: When to stop earlier still: both medians have a standard error of this share of them at most.
    """
    sessions = [open_session(m, runtime=runtime, spinning=True) for m in (float_model, quantized)]
    inputs = {i.name: feed[i.name] for i in sessions[0].get_inputs()}
    for session in sessions:  # the first runs are slower
        end = time.perf_counter() + seconds / 2
        for _ in range(3):
            session.run(None, inputs)
            if time.perf_counter() > end:
                break
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while len(times[0]) < least_runs or (
        time.perf_counter() < end
        and len(times[0]) < most_runs
        and not all(_is_steady(t, steady) for t in times)
    ):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, inputs)
            taken.append(time.perf_counter() - start)
    medians = [float(np.median(t)) * 1e3 for t in times]
    faster = sum(own < before for before, own in zip(*times, strict=True))
    share = float(np.median(np.divide(times[1], times[0])))
    return Latency(medians[0], medians[1], runtime.threads, len(times[0]), faster, share)


def _is_steady(times: Sequence[float], share: float) -> bool:
    """Whether the standard error of a median is this share of it at most."""
    if share <= 0:
        return False
    low, middle, high = np.percentile(times, (25, 50, 75))
    return bool(0.93 * (high - low) <= share * middle * np.sqrt(len(times)))
