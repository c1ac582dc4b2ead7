"""Whether one candidate is clearly better than another, by what they lose on the same samples.

Two candidates are compared sample by sample, since a sample that is hard for one is hard for the other. In each part
the signal cancels, and what remains is the difference

    d_ip = 10 log10(E_ip of the simpler / E_ip of the candidate)                                            [dB]

The candidate is clearly better where the mean over parts and samples lies above nothing by more than chance explains
(Student's paired t test, one-sided), and where no part is worse: what one part loses is not made good by another.

In such a mean a sample in which a part has next to nothing counts as much as any other. The scores of a detector are of
that kind: most images show few things, and a candidate that gains there may lose where there is something to see. So the
losses of a part are looked at in another way, too: the difference of its SQNR over all samples, and how far this may lie
from nothing by chance, from leaving out one sample after the other (the jackknife). A part is worse where either way shows
a loss clearly. It is doubtful where the second way shows a loss of more than a standard error or so. A candidate with a
doubtful part is not clearly better; more samples may show that it is.

Sources: Student, "The probable error of a mean", Biometrika 6, 1908. Several parts are looked at for losses, so each of
them is tested at the confidence 1 - (1 - confidence) / parts (Bonferroni). Tukey, "Bias and confidence in not-quite large
samples", Annals of Mathematical Statistics 29, 1958: the pseudo-values of the jackknife are tested like samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibrant.analysis.score import SampleScores
from calibrant.numerics.student_t import t_quantile
from calibrant.runtime.measure import SQNR_LIMITS

__all__ = ["MIN_SAMPLES", "TOLERATED_DB", "Comparison", "clearly_better"]

Floats = npt.NDArray[np.float64]

#: Different samples that a comparison needs: of fewer than 5, even if all agree, the sign alone is chance in 1 of 16.
MIN_SAMPLES = 5

#: Losses of a part up to this count as none, however sure they are, and gains are not worth more samples: 6 % of the error,
#: seen in no task [dB].
TOLERATED_DB = 0.5

#: A part that loses with this confidence is doubtful: one standard error of many samples.
DOUBT = 0.84


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether a candidate is clearly better than a simpler one.

    Args:
        better: It is.
        can_say: Whether the samples say anything.
        gain_db: Mean difference over parts and samples [dB]; above 0 the candidate is better.
        noise_db: How far a mean of so many samples may lie from nothing by chance [dB]; inf where nothing can be said.
        parts: Mean difference of each part that counts [dB].
        worse: Parts that are clearly worse.
        samples: Different samples that were compared.
        reason: All this in a sentence.
        doubtful: Parts that are not clearly worse, and probably lose over all samples.
    """

    better: bool
    can_say: bool
    gain_db: float
    noise_db: float
    parts: dict[str, float]
    worse: tuple[str, ...]
    samples: int
    reason: str
    doubtful: tuple[str, ...] = ()


def clearly_better(
    candidate: SampleScores,
    simpler: SampleScores,
    *,
    margin_db: float = 0.0,
    confidence: float = 0.95,
) -> Comparison:
    """Say whether a candidate is better than a simpler one by more than chance explains.

    Args:
        candidate: What the candidate lost.
        simpler: What the simpler one lost, on the same samples and parts.
        margin_db: What it must gain over all parts together, beyond the noise [dB].
        confidence: Of the test, in [0.5, 1).

    Raises:
        ValueError: Samples or parts differ, or the confidence is out of its range.
    """
    if candidate.parts != simpler.parts or candidate.signal.shape != simpler.signal.shape:
        raise ValueError("Candidates are compared on the same samples and parts.")
    counted = simpler.counted
    names = [n for n, c in zip(simpler.parts, counted, strict=True) if c]
    broken, was_broken = (bool(np.isinf(s.error).any()) for s in (candidate, simpler))
    if broken or was_broken:
        return _where_not_finite(broken, was_broken, names, simpler.samples)
    differences, over_all, different = _differences(candidate, simpler)
    each = differences.mean(axis=0) if len(differences) else np.zeros(len(names))
    gains = {n: float(v) for n, v in zip(names, each, strict=True)}
    gain = float(each.mean()) if len(each) else 0.0
    silence = _silence(simpler, different)
    if silence:
        return Comparison(False, False, gain, math.inf, gains, (), different, silence)
    noise = _noise(differences.mean(axis=1), confidence)
    single = 1 - (1 - confidence) / len(names)
    worse: dict[str, float] = {}
    doubtful: dict[str, float] = {}
    for name, d, whole in zip(names, differences.T, over_all.T, strict=True):
        if any(_loses(x, single) for x in (d, whole)):
            worse[name] = float(min(d.mean(), whole.mean()))
        elif _loses(whole, DOUBT):
            doubtful[name] = float(whole.mean())
    better = gain - noise > margin_db and not worse and not doubtful
    text = _sentence(gain, noise, margin_db, worse, doubtful, different, confidence)
    return Comparison(
        better, True, gain, noise, gains, tuple(worse), different, text, tuple(doubtful)
    )


def _loses(values: Floats, confidence: float) -> bool:
    """Whether the mean of values lies below nothing by more than chance explains, and by so much that it matters."""
    return bool(values.mean() < -TOLERATED_DB and values.mean() + _noise(values, confidence) < 0)


def _differences(candidate: SampleScores, simpler: SampleScores) -> tuple[Floats, Floats, int]:
    """Return differences of samples and of all samples (samples, counted parts) [dB], and how many samples are different.

    The mean of the second is the difference of the SQNR over all samples; they vary as its pseudo-values do.

    Errors are limited to what an SQNR within its limits allows, with the mean signal of the part. Samples with equal
    figures throughout, such as copies of one image, are one sample.
    """
    counted = simpler.counted
    signal = simpler.signal[:, counted]
    errors = [s.error[:, counted] for s in (candidate, simpler)]
    rows = _rounded(np.concatenate([signal, *errors], axis=1))
    _, first = np.unique(rows, axis=0, return_index=True)
    first.sort()
    mean = signal.mean(axis=0) if len(signal) else np.zeros(signal.shape[1])
    mean = np.where(mean > 0, mean, 1.0)  # a part of zeros: any error there is the largest
    low, high = (mean * 10 ** (-db / 10) for db in reversed(SQNR_LIMITS))
    one, other = (np.clip(e[first], low, high) for e in errors)
    differences = 10 * np.log10(other / one)
    return differences, _pseudo_values(one, other), len(first)


def _pseudo_values(one: Floats, other: Floats) -> Floats:
    """Return pseudo-values of the ratio of two sums of errors (samples, parts) [dB], moved so that its value is their mean."""
    n = len(one)
    whole = 10 * np.log10(other.sum(axis=0) / one.sum(axis=0)) if n else np.zeros(one.shape[1:])
    if n < 2:
        return np.tile(whole, (n, 1))
    without = 10 * np.log10((other.sum(axis=0) - other) / (one.sum(axis=0) - one))
    return np.asarray(whole - (n - 1) * (without - without.mean(axis=0)))


def _rounded(x: Floats) -> Floats:
    """Round to 20 bits, more than kernels for batches of different size differ by."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.rint(mantissa * 2**20), exponent - 20))


def _silence(scores: SampleScores, different: int) -> str:
    """Return why samples say nothing, or nothing where they do."""
    if not scores.parts or not scores.varies.any():
        return "Nothing can be said: the float model gives one value throughout."
    if different >= MIN_SAMPLES:
        return ""
    if scores.samples >= MIN_SAMPLES:
        alike = "all alike" if different == 1 else f"copies of {different} different ones"
        return f"Nothing can be said: the {scores.samples} samples are {alike}; {MIN_SAMPLES} different ones are needed."
    there = "there is 1 sample" if scores.samples == 1 else f"there are {scores.samples} samples"
    return f"Nothing can be said: {there}; {MIN_SAMPLES} different ones are needed."


def _noise(values: Floats, confidence: float) -> float:
    """Return how far the mean of values may lie from nothing by chance."""
    n = len(values)
    return t_quantile(confidence, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)


def _where_not_finite(
    candidate: bool, simpler: bool, names: Sequence[str], samples: int
) -> Comparison:
    better = simpler and not candidate
    gain = math.inf if better else -math.inf if not simpler else 0.0
    who = "simpler setting" if better else "candidate"
    text = f"Outputs of the {who} are not finite."
    return Comparison(better, True, gain, 0.0, dict.fromkeys(names, gain), (), samples, text)


def _sentence(
    gain: float,
    noise: float,
    margin_db: float,
    worse: Mapping[str, float],
    doubtful: Mapping[str, float],
    samples: int,
    confidence: float,
) -> str:
    known = f"on {samples} samples, with {100 * confidence:.3g}% confidence"
    if worse:
        lose = "a part loses" if len(worse) == 1 else "parts lose"
        return f"{gain:+.2f} dB over all parts, but {lose}: {_listed(worse)} ({known})."
    if doubtful and gain - noise > margin_db:
        lose = "a part probably loses" if len(doubtful) == 1 else "parts probably lose"
        return f"{gain:+.2f} dB over all parts, but {lose} over all samples: {_listed(doubtful)} (on {samples} samples)."
    if gain - noise > margin_db:
        return f"{gain:+.2f} dB, at least {gain - noise:+.2f} dB ({known})."
    asked = f", and {margin_db:g} dB are asked for" if margin_db else ""
    return f"{gain:+.2f} dB, which is no clear gain: by chance it may be {noise:.2f} dB{asked} ({known})."


def _listed(parts: Mapping[str, float]) -> str:
    return ", ".join(f"'{n}' {-v:.2f} dB" for n, v in parts.items())
