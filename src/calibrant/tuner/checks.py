"""Checks of what a tuning run is asked for, before any of its work begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrant.diagnose.ways import check_by
from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.graph.targets import Target
from calibrant.plan.loaded import keeps_scales
from calibrant.qat import check_torch
from calibrant.recipe import Recipe
from calibrant.tuner.costs import BITS
from calibrant.tuner.moves import kinds_of
from calibrant.tuner.precisions import COMPENSATED
from calibrant.tuner.trainer import Budget
from calibrant.tuner.vendors import VENDORS

__all__ = [
    "PRECISIONS",
    "check_budget",
    "check_kernels",
    "check_options",
    "check_sensitivity",
    "check_shares",
    "moves_of",
    "precisions_of",
    "training_of",
]


#: Precisions that layers may have, the one of least bits first.
PRECISIONS = tuple(BITS)


def precisions_of(
    allow: str | Sequence[str] | None,
    target: Target,
    strategy: str = "auto",
    average_bits: float | None = None,
) -> list[str]:
    """Return the precisions that layers may have, the one of least bits first.

    Where the local runtime is the device, its integer kernels have 8 bits, and int16 would be float arithmetic with
    rounding on top. Weights of 4 bits are among them by themselves where fewer than 8 bits are asked for on average.
    """
    wide = 16 in target.activation_bits and 16 in target.weight_bits
    vendor = VENDORS.get(strategy)
    if allow is None and vendor is not None:
        return [p for p in vendor.precisions if p != "int16" or wide]
    if allow is None:
        four = average_bits is not None and average_bits < 8 and _has_int4(target)
        return [
            *(["int4"] if four else []),
            "int8",
            *(["int16"] if wide and not target.measures_latency else []),
            "float32",
        ]
    named = [p.strip() for p in allow.split(",")] if isinstance(allow, str) else list(allow)
    for name in named:
        if name not in PRECISIONS:
            raise ConfigValueError(
                f"Unknown precision '{name}'. Known: {', '.join(PRECISIONS)}."
                + did_you_mean(str(name), PRECISIONS)
            )
    if not named:
        raise ConfigValueError(f"No precision is allowed. Known: {', '.join(PRECISIONS)}.")
    if "int16" in named and not wide:
        raise ConfigValueError(f"int16 is allowed, and target '{target.name}' has 8 bits alone.")
    if "int4" in named and not _has_int4(target):
        raise ConfigValueError(
            f"int4 is allowed, and target '{target.name}' has no weights of 4 bits beside activations of 8."
        )
    if set(named) == {"float32"}:
        raise ConfigValueError("float32 alone is allowed, so there is nothing to quantize.")
    if vendor is not None and not {"int8", "float32"} <= set(named) <= set(vendor.precisions):
        raise ConfigValueError(
            f"Strategy '{strategy}' gives layers {', '.join(vendor.precisions)}, int8 and float32 always; allowed are "
            f"{', '.join(named)}."
        )
    return [p for p in PRECISIONS if p in named]


def _has_int4(target: Target) -> bool:
    return {4, 8} <= {*target.weight_bits, *target.activation_bits}


def check_kernels(precisions: Sequence[str], cost: str | Path) -> None:
    """Check that the local runtime has kernels for what is timed on it."""
    strange = [p for p in precisions if p in ("int4", COMPENSATED)]
    if strange and str(cost) == "latency":
        raise ConfigValueError(
            f"{' and '.join(strange)} cannot be timed: ONNX Runtime has no kernels of that kind. Take another cost."
        )


def check_budget(
    max_cost: float | None, cost: str | Path, strategy: str, average_bits: float | None = None
) -> None:
    """Check a limit of cost, in units of the cost or as bits of a weight on average."""
    if average_bits is not None:
        if not 0 < average_bits <= 32:
            raise ConfigValueError(
                f"average_bits is {average_bits}; it is above 0, and at most 32."
            )
        if max_cost is not None or str(cost) not in ("macs", "size"):
            raise ConfigValueError(
                "average_bits limits the size of weights; it goes with cost 'size' and without max_cost."
            )
    elif max_cost is None:
        return
    if max_cost is not None and not max_cost > 0:
        raise ConfigValueError(
            f"max_cost is {max_cost}; it is above 0, in units of cost ({cost})."
        )
    if strategy != "auto":
        raise ConfigValueError(f"A limit of cost belongs to strategy 'auto'; it is '{strategy}'.")


def check_shares(holdout: float, confidence: float) -> None:
    """Check what share is held out, and how certain an early end is."""
    if not 0 <= holdout < 1:
        raise ConfigValueError(f"holdout is {holdout}; it is a share, from 0 to below 1.")
    if not 0.5 <= confidence <= 1:
        raise ConfigValueError(f"confidence is {confidence}; it is from 0.5 to 1.")


def check_sensitivity(by: str, strategy: str) -> None:
    """Check how layers are measured alone.

    Raises:
        ConfigValueError: There is no such way, or the strategy measures in its own.
        MissingPackageError: torch is needed, and not installed.
    """
    check_by(by, "sensitivity_by")
    if by == "gradient":
        if strategy != "auto":
            raise ConfigValueError(
                f"Strategy '{strategy}' measures layers in its own way; sensitivity_by belongs to 'auto'."
            )
        check_torch()


def check_options(
    wanted: Recipe,
    strategy: str,
    known: Sequence[str],
    trials: int | None,
    minutes: float | None,
    samples: int | None,
) -> None:
    """Check options against each other and against the recipe; `known` are the strategies there are."""
    if strategy not in known:
        raise ConfigValueError(
            f"Unknown strategy '{strategy}'. Known: {', '.join(known)}."
            + did_you_mean(strategy, known)
        )
    if trials is not None and trials < 2:
        raise ConfigValueError(
            f"max_trials is {trials}; it is 2 or more: the float model, and one quantized model."
        )
    if minutes is not None and not minutes > 0:
        raise ConfigValueError(f"max_minutes is {minutes}; it is above 0.")
    if samples is not None and samples < 1:
        raise ConfigValueError(f"samples_for_sensitivity is {samples}; it is 1 or more.")
    if keeps_scales(wanted):
        raise ConfigValueError(
            "The recipe keeps the scales that the model has; precisions are tuned with scales that are chosen from data."
        )
    searches = wanted.search is not None and strategy not in VENDORS
    if wanted.promote is not None or searches:
        raise ConfigValueError(
            "The recipe raises layers or searches between candidates itself; tune decides of each layer's precision."
        )


def training_of(
    strategy: str, minutes: float | None, epochs: float | None, data: Any
) -> Budget | None:
    """Return the budget of a training; None where none is asked for.

    Raises:
        ConfigValueError: A strategy that does not train, samples without a budget, or a budget out of range.
        MissingPackageError: torch is not installed.
    """
    train = [n for n, v in VENDORS.items() if v.trains]
    if minutes is None and epochs is None and strategy not in train:
        if data is not None:
            raise ConfigValueError(
                "train_data is given, and nothing says how long to train: give train_minutes or train_epochs."
            )
        return None
    if strategy not in ("auto", *train):
        raise ConfigValueError(
            f"Training belongs to the strategies {', '.join(('auto', *train))}; it is '{strategy}'."
        )
    budget = Budget(minutes, epochs)
    check_torch()
    return budget


def moves_of(said: str | Sequence[str] | None, strategy: str, *, budget: bool) -> tuple[str, ...]:
    """Return the kinds of moves that are tried."""
    if said is None:
        return kinds_of("auto" if strategy == "auto" and not budget else "none")
    found = kinds_of(said)
    if found and strategy != "auto":
        raise ConfigValueError(
            f"Moves belong to strategy 'auto'; '{strategy}' has its own. Take moves 'none', or leave them out."
        )
    if found and budget:
        raise ConfigValueError(
            "Moves are tried where the cheapest assignment misses the requirement, not with a limit of cost."
        )
    return found
