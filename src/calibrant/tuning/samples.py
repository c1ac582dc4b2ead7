"""The calibration data of a recipe, read as often as the bench needs it and no more than that.

The first samples stay in memory: the probe is made of them. The rest passes by; a second pass opens the data
again, where the data allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from calibrant.data.batch import Batch, InputInfo
from calibrant.data.open import Batches, open_data
from calibrant.data.sources.random import random_arrays
from calibrant.errors import DataError
from calibrant.recipe import Recipe

__all__ = ["Samples", "open_samples"]


@dataclass(slots=True, eq=False)
class Samples:
    """Batches, of which the first are held.

    Args:
        source: The data.
        data: What it was opened from.
        preprocess: File that says how raw samples become inputs.
    """

    source: Batches
    data: Any = None
    preprocess: Any = None
    _held: list[Batch] = field(default_factory=list)
    _stream: Iterator[Batch] | None = None
    _passed: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, or done in another way, and why."""
        return tuple(self.source.notes)

    @property
    def total(self) -> int | None:
        """How many samples there are; None where only a pass can tell."""
        return self.source.samples

    def first(self) -> Iterator[Batch]:
        """Yield batches from the first on; what is yielded stays in memory."""
        index = 0
        while True:
            if index == len(self._held) and not self._read():
                return
            yield self._held[index]
            index += 1

    def all(self) -> Iterator[Batch]:
        """Yield all batches; those that are not held are let go."""
        held = len(self._held)
        yield from self._held[:held]
        if not self._passed:
            self._passed = True
            stream = self._stream if self._stream is not None else iter(self.source)
            self._stream = iter(())
            yield from stream
            return
        for index, batch in enumerate(self.source):
            if index >= held:
                yield batch

    def after(self, samples: int) -> Iterator[Batch]:
        """Yield the batches behind the first samples."""
        for batch in self.all():
            if batch.first >= samples:
                yield batch
            elif batch.first + batch.size > samples:
                yield batch.part(samples - batch.first, batch.size)

    def _read(self) -> bool:
        """Hold one more batch; say whether there was one."""
        if self._passed:
            stream = iter(self.source)  # a later recipe wants to hold more than the first one did
            more = next((b for i, b in enumerate(stream) if i == len(self._held)), None)
        else:
            if self._stream is None:
                self._stream = iter(self.source)
            more = next(self._stream, None)
        if more is None:
            return False
        self._held.append(more)
        return True


def open_samples(
    inputs: list[InputInfo],
    data: Any,
    recipe: Recipe,
    *,
    batch_size: int | None = None,
    batch_num: int | None = None,
    preprocess: Any = None,
) -> Samples:
    """Open the data of a recipe; what the caller says is over what the recipe says.

    Args:
        inputs: What the model takes.
        data: What the caller gives, or None.
        recipe: May name data, ask for random values, and say how batches are made.
        batch_size: Samples in a batch.
        batch_num: Batches to use.
        preprocess: File that says how raw samples become inputs.

    Raises:
        DataError: There is no data, or it does not fit the model.
    """
    calibration = recipe.calibration
    notes = []
    if calibration.random:
        if data is not None:
            notes.append("The recipe asks for random values: the data that was given is not read.")
        data, preprocess = random_arrays(inputs), None
    elif data is None and calibration.sources:
        data = calibration.sources
        notes.append(f"Data as the configuration names it: {', '.join(s.path for s in data)}.")
    elif data is None:
        raise DataError(
            "There is no calibration data. Give some (--data), or name it in the recipe; only a recipe that "
            "keeps the scales which the model has does without."
        )
    elif calibration.sources:
        named = ", ".join(s.path for s in calibration.sources)
        notes.append(
            f"The data that was given is used, not what the configuration names ({named})."
        )
    batches = open_data(
        data,
        inputs,
        batch_size=batch_size if batch_size is not None else calibration.batch_size,
        batch_num=batch_num if batch_num is not None else calibration.batch_num,
        preprocess=preprocess,
    )
    batches.notes[:0] = notes
    return Samples(batches, data, preprocess)
