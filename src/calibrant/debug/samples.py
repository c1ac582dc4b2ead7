"""The samples that the debug tool looks at, and a calibrated model that is ready to answer on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibrant.analysis.alone.feeds import FEED, FEED_BYTES, Feeds, take_feeds
from calibrant.analysis.probe import rows_are_free
from calibrant.data.open import open_data
from calibrant.debug.calibrations import Calibrated, read_calibrated
from calibrant.debug.partial import MEMORY_BYTES, Partial
from calibrant.errors import ConfigTypeError, ConfigValueError, did_you_mean
from calibrant.graph.load import ModelLike
from calibrant.runtime.inputs import model_inputs
from calibrant.runtime.runtime import CPU, Runtime

__all__ = ["SAMPLES", "Subject", "known_nodes", "opened_subject"]

#: Samples that are looked at where nothing else is asked for.
SAMPLES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A calibrated model and samples.

    Args:
        calibrated: The model, taken apart.
        feeds: Samples.
        runtime: Where it runs.
        memory: Bytes of activations that are kept at a time.
    """

    calibrated: Calibrated
    feeds: Feeds
    runtime: Runtime
    memory: int

    def partial(self, outputs: Sequence[str]) -> Partial:
        """Return the model with switches, looked at at some tensors."""
        return Partial(self.calibrated, tuple(outputs), self.feeds, self.memory, self.runtime)


def opened_subject(
    model_or_file: ModelLike,
    calibrated_data: Any,
    data_num: int | None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    runtime: Runtime = CPU,
) -> Subject:
    """Read a calibrated model and the first samples of its data.

    Args:
        model_or_file: The calibrated model.
        calibrated_data: Samples; also a list of arrays, one a sample, for a model with one input.
        data_num: How many to take; None for 8, or all where there are fewer.
        memory_bytes: Bytes of activations that are kept at a time.
        runtime: Where it runs.

    Raises:
        ModelError: The model cannot be read, or has no calibration nodes.
        DataError: The data is empty or does not fit.
        ConfigValueError: `data_num` is below 1.
    """
    if isinstance(model_or_file, Subject):
        return model_or_file
    if data_num is not None and (isinstance(data_num, bool) or data_num < 1):
        raise ConfigValueError(f"data_num is {data_num}; it is 1 or more.")
    if memory_bytes < 1:
        raise ConfigValueError(f"memory_bytes is {memory_bytes}; it is 1 or more.")
    calibrated = read_calibrated(model_or_file)
    inputs = model_inputs(calibrated.model)
    if _is_list_of_arrays(calibrated_data) and len(inputs) == 1:
        calibrated_data = {inputs[0].name: list(calibrated_data)}
    free = rows_are_free(calibrated.model)
    wanted = SAMPLES if data_num is None else data_num
    batches = open_data(calibrated_data, inputs)
    feeds = take_feeds(iter(batches), wanted, free=free)
    if feeds.rows:  # nothing is decided on the first of them, so they need not be apart
        each = max(1, sum(x.nbytes for x in feeds.given[0].feeds.values()) // feeds.given[0].size)
        feeds = replace(feeds, batches=feeds.given).cut(max(1, min(FEED, FEED_BYTES // each)))
    return Subject(calibrated, feeds, runtime, memory_bytes)


def known_nodes(
    calibrated: Calibrated, names: Iterable[str], what: str, known: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Return names of nodes, checked.

    Args:
        calibrated: The model.
        names: Names.
        what: The argument they came with.
        known: What may be named; None for every node that can be quantized: calibration nodes, and ordinary nodes that
            read through some.

    Raises:
        ConfigTypeError: No text.
        ConfigValueError: No such node.
    """
    allowed = list(known) if known is not None else [*calibrated.nodes, *calibrated.feeders]
    wanted = tuple(names)
    for name in wanted:
        if not isinstance(name, str):
            raise ConfigTypeError(
                f"{what} holds a {type(name).__name__}; it holds names of nodes, or lists of names."
            )
        if name in allowed:
            continue
        if name in calibrated.ordinary:
            raise ConfigValueError(
                f"{what}: node '{name}' has no calibration node in front of it, so it cannot be quantized."
            )
        raise ConfigValueError(
            f"{what}: the model has no node '{name}' here, of {len(allowed)} that may be named."
            + did_you_mean(name, allowed)
        )
    return wanted


def _is_list_of_arrays(data: Any) -> bool:
    return isinstance(data, list | tuple) and bool(data) and isinstance(data[0], np.ndarray)
