"""Task metrics by name, with options behind it: `top5`, `miou`, `psnr,peak=255`, `map,head=yolox`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from calibrant.algorithms.options import build, describe_options
from calibrant.analysis.task_metrics import MEANS, BatchMetric, batch_metric
from calibrant.analysis.tasks.corpus import CorpusMetric
from calibrant.analysis.tasks.detection import MeanPrecision, MeanPrecisionAt50
from calibrant.analysis.tasks.edits import CharacterErrors, WordErrors
from calibrant.analysis.tasks.images import Psnr, Ssim
from calibrant.analysis.tasks.ranks import Kendall, Spearman
from calibrant.analysis.tasks.regression import R2, Rmse
from calibrant.analysis.tasks.segmentation import MeanIou
from calibrant.errors import ConfigValueError, did_you_mean

__all__ = ["TASK_METRICS", "about", "names", "task_metric"]


class _Made(Protocol):
    def metric(self, name: str) -> BatchMetric | CorpusMetric:
        """Return the metric."""
        ...


_CLASSES: Mapping[str, type[_Made]] = {
    "rmse": Rmse,
    "r2": R2,
    "spearman": Spearman,
    "kendall": Kendall,
    "miou": MeanIou,
    "map": MeanPrecision,
    "map50": MeanPrecisionAt50,
    "psnr": Psnr,
    "ssim": Ssim,
    "wer": WordErrors,
    "cer": CharacterErrors,
}

#: All names.
TASK_METRICS = (*MEANS, *_CLASSES)


def names() -> str:
    """Return all names, for messages and help."""
    return ", ".join(TASK_METRICS)


def about(name: str) -> tuple[str, list[str]]:
    """Return what a metric is, in one sentence, and its options as `name=default`."""
    if name in MEANS:
        return MEANS[name], []
    kind = _CLASSES[name]
    options = [f"{o.name}={o.default}" for o in describe_options(kind)]
    return (inspect.getdoc(kind) or "").split("\n", 1)[0], options


def task_metric(asked: str, *, beside: Sequence[str] = ()) -> BatchMetric | CorpusMetric:
    """Return a metric by name.

    Args:
        asked: A name, and options behind commas: `psnr,peak=255`.
        beside: Names that the caller takes besides, for the message.

    Raises:
        ConfigValueError: An unknown name or option; it lists what there is.
        ConfigTypeError: An option of the wrong type.

    Example:
        >>> task_metric("map,head=yolox").higher_is_better
        True
    """
    name, *rest = (part.strip() for part in asked.split(","))
    known = name in TASK_METRICS or re.fullmatch(r"top[1-9]\d*", name) is not None
    if not known:
        raise ConfigValueError(
            f"Unknown metric '{name}'. Known: {', '.join((*TASK_METRICS, *beside))} (any top<k>), or module:function."
            + ("" if beside else _two_models(name))
            + did_you_mean(name, (*TASK_METRICS, *beside))
        )
    given: dict[str, Any] = {}
    for option in rest:
        key, sign, value = (x.strip() for x in option.partition("="))
        if not sign or not key or not value or key in given:
            raise ConfigValueError(
                f"Metric '{asked}': behind a comma stands an option once, as name=value."
            )
        given[key] = _value(value)
    if name not in _CLASSES:
        if given:
            raise ConfigValueError(f"Metric '{name}' has no options; '{asked}' gives some.")
        return batch_metric(name)
    return build(_CLASSES[name], f"metric '{name}'", given).metric(asked)


def _two_models(name: str) -> str:
    """Return what to do for a metric that compares a model with another one, without references."""
    if name not in ("cosine_similarity", "cosine", "sqnr_db", "sqnr"):
        return ""
    return " This one compares two models: calibrant compare FLOAT QUANTIZED --data DATA."


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
