"""Does the float model answer as the trained network did? An export that does not is no matter of quantization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.analysis.metrics import max_absolute_error, sqnr_db
from calibrant.diagnose.triage.finding import Finding
from calibrant.errors import DataError, did_you_mean

__all__ = ["SAME_DB", "check_parity"]

Array = npt.NDArray[Any]

#: Two runtimes agree at least so well; 80 dB are 4 decimal digits.
SAME_DB = 60.0

#: Below this the two do not compute the same.
_OTHER_DB = 30.0


def check_parity(
    outputs: Sequence[Mapping[str, Array]], reference: Sequence[Mapping[str, Array]]
) -> Iterator[Finding]:
    """Compare the outputs of the float model with those that it should have.

    Args:
        outputs: Of the float model, one mapping for each run.
        reference: What they should be, by the same names and runs.

    Raises:
        DataError: The reference has no output of the model, or another shape.
    """
    names = list(outputs[0])
    common = [n for n in names if n in reference[0]]
    if not common:
        there = list(reference[0])
        raise DataError(
            f"The reference has none of the model's outputs ({', '.join(names)}); it has {', '.join(there)}."
            + did_you_mean(names[0], there)
        )
    for name in common:
        mine, truth = (_joined(each, name) for each in (outputs, reference))
        if mine.size > truth.size:
            raise DataError(
                f"The reference holds {truth.size} values of output '{name}', and the model gives {mine.size} for the same "
                "samples."
            )
        db = sqnr_db(mine, truth[: mine.size])
        if db < SAME_DB:
            largest = max_absolute_error(mine, truth[: mine.size])
            yield Finding(
                "float parity",
                "model",
                f"Output '{name}' of the float model agrees with its reference to {db:.1f} dB only (largest difference "
                f"{largest:.3g}).",
                "Look at the export and at the preparation of the data first; quantization cannot be better than the float "
                "model.",
                0.98 if db < _OTHER_DB else 0.8,
                (name,),
            )


def _joined(each: Sequence[Mapping[str, Array]], name: str) -> Array:
    return np.concatenate([np.asarray(x[name], dtype=np.float64).reshape(-1) for x in each])
