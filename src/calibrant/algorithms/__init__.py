"""Algorithms: pure functions from statistics, or from a weight, to quantization parameters.

    activation("ifmr", search_step=0.02)(stats, spec) -> QuantParams
    weight("arq")(w, spec)                            -> QuantParams

One file each in `activations/` and `weights/`; a new file there is found by itself, and a package elsewhere
adds its own with the entry point `calibrant.algorithms` (a module that registers when it is imported).
A weight algorithm may also keep a few values of the grid (`CodebookAlgorithm`), or learn its rounding from what
the layer answers (`RoundingAlgorithm`): what it can do says so, not its name.

    @register_activation("half-range")
    @options
    class HalfRange:
        \"\"\"Use a part of the observed range.\"\"\"

        ratio: Ratio = 0.5

        def __call__(self, stats: TensorStats, spec: QuantSpec) -> QuantParams:
            return QuantParams.from_range(stats.min * self.ratio, stats.max * self.ratio, spec)
"""

from calibrant.algorithms._problem import RoundingProblem
from calibrant.algorithms._registry import (
    ActivationAlgorithm,
    CodebookAlgorithm,
    Option,
    RangeAlgorithm,
    RoundingAlgorithm,
    WeightAlgorithm,
    about,
    activation,
    describe,
    names,
    register_activation,
    register_weight,
    weight,
)

__all__ = [
    "ActivationAlgorithm",
    "CodebookAlgorithm",
    "Option",
    "RangeAlgorithm",
    "RoundingAlgorithm",
    "RoundingProblem",
    "WeightAlgorithm",
    "about",
    "activation",
    "describe",
    "names",
    "register_activation",
    "register_weight",
    "weight",
]
