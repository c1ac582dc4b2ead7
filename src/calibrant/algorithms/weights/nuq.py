"""NUQ: 8-bit weights that keep a few levels of the grid, so that an index of 4 or 5 bits says each.

    q       = clip(round(w / scale), -128, 127)          scale as ARQ has it
    levels  = argmin over codebooks of sum (q - nearest level)**2, over the whole layer
    w'      = scale * nearest level to q

One codebook serves all channels. 0 is a level wherever a weight is 0, since pruned weights stay zero. A tie
between two levels goes to the smaller magnitude. `refine.few_levels` then has the codebook reconstruct the
layer's output instead of its weights, `rounds` times.

Source: docs/explanation/algorithms/weight-nuq.md (the vendor's own clustering is not public).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from calibrant.algorithms import register_weight
from calibrant.algorithms._kmeans import codebook, occurrences
from calibrant.algorithms.options import options
from calibrant.algorithms.weights.arq import Arq
from calibrant.errors import ConfigValueError
from calibrant.numerics import QuantParams, QuantSpec


@register_weight("nuq")
@options
class Nuq:
    """Keep the levels of the 8-bit grid that lose the least squared error.

    Args:
        levels: How many values of the grid a layer keeps: 16 take 4 bits a weight, 32 take 5.
        rounds: How often the levels are chosen anew by what the layer answers to calibration data.
        storage: How the deployable model stores the weight: as int8, or as 4-bit indices into the levels,
            which makes the file half as large (16 levels; the model then needs opset 21).
    """

    levels: Literal[16, 32] = 32
    rounds: Annotated[int, Field(ge=0, le=5)] = 1
    storage: Literal["int8", "indices"] = "int8"

    def __post_init__(self) -> None:
        if self.storage == "indices" and self.levels != 16:
            raise ValueError(
                f"storage is 'indices' with {self.levels} levels, whose indices have 5 bits; ONNX has a "
                "type of 4 bits, for 16 levels"
            )

    def __call__(self, values: npt.ArrayLike, spec: QuantSpec) -> QuantParams:
        """Return a scale for the tensor, or for each index of `spec.axis`: that of `arq`.

        Raises:
            ConfigValueError: The grid does not have 8 bits.
        """
        if spec.bits != 8:
            raise ConfigValueError(
                f"weight algorithm 'nuq' chooses levels of the 8-bit grid; {spec.bits} bits are asked for."
            )
        return Arq()(values, spec)

    def codebook(
        self,
        values: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float64] | None = None,
    ) -> tuple[int, ...]:
        """Return the levels to keep of a weight on the grid, sorted.

        Args:
            values: The weight on the grid, of any shape [steps].
            weights: What an error of one step in each value counts, of that shape; None for 1.
        """
        keep = 0 if (values == 0).any() else None
        return codebook(occurrences(values, weights), self.levels, keep=keep)
