"""calibrant: quantize a trained network so that it still meets its accuracy requirement.

    import calibrant

    result = calibrant.quantize("model.onnx", "calib.npz")
    print(result.summary["quality"])
    result.save("run/")

Everything here loads on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from calibrant._version import __version__

TYPE_CHECKING = False  # importing `typing` would be most of the time that this file takes
if TYPE_CHECKING:
    import typing

    from calibrant import algorithms, debug, qat
    from calibrant.analysis.compare import compare
    from calibrant.analysis.evaluate import Evaluation, evaluate
    from calibrant.analysis.score import Score
    from calibrant.compat.horizon import Quantizer, set_calib_qtype
    from calibrant.diagnose import Advice, Attribution, Ranking, advise, attribution, sensitivity
    from calibrant.dialects import dump_recipe, load_recipe
    from calibrant.errors import CalibrantError
    from calibrant.numerics import QuantParams, QuantSpec
    from calibrant.pipeline import observe, quantize
    from calibrant.plan import Plan
    from calibrant.rebuild import quantize_from_record
    from calibrant.recipe import (
        AlgorithmChoice,
        AllNodes,
        AllOf,
        Calibration,
        EndLayers,
        Fusion,
        InputOf,
        Layer,
        LayerInput,
        Limit,
        MappedLayers,
        Note,
        OpType,
        Promotion,
        Recipe,
        Rule,
        Search,
        Settings,
        Source,
        Subgraph,
    )
    from calibrant.results import QuantizedModel
    from calibrant.solution import Solution
    from calibrant.stats import Statistics, TensorStats
    from calibrant.tuner import Requirement, Runner, TuningResult, tune
    from calibrant.tuning.bench import Bench

__all__ = [
    "Advice",
    "AlgorithmChoice",
    "AllNodes",
    "AllOf",
    "Attribution",
    "Bench",
    "CalibrantError",
    "Calibration",
    "EndLayers",
    "Evaluation",
    "Fusion",
    "InputOf",
    "Layer",
    "LayerInput",
    "Limit",
    "MappedLayers",
    "Note",
    "OpType",
    "Plan",
    "Promotion",
    "QuantParams",
    "QuantSpec",
    "QuantizedModel",
    "Quantizer",
    "Ranking",
    "Recipe",
    "Requirement",
    "Rule",
    "Runner",
    "Score",
    "Search",
    "Settings",
    "Solution",
    "Source",
    "Statistics",
    "Subgraph",
    "TensorStats",
    "TuningResult",
    "__version__",
    "advise",
    "algorithms",
    "attribution",
    "compare",
    "debug",
    "dump_recipe",
    "evaluate",
    "load_recipe",
    "observe",
    "qat",
    "quantize",
    "quantize_from_record",
    "sensitivity",
    "set_calib_qtype",
    "tune",
]

#: Where each public name lives.
_HOMES = {
    "Bench": "calibrant.tuning.bench",
    "Score": "calibrant.analysis.score",
    "Solution": "calibrant.solution",
    "AlgorithmChoice": "calibrant.recipe",
    "AllNodes": "calibrant.recipe",
    "AllOf": "calibrant.recipe",
    "Advice": "calibrant.diagnose",
    "advise": "calibrant.diagnose",
    "Attribution": "calibrant.diagnose",
    "attribution": "calibrant.diagnose",
    "CalibrantError": "calibrant.errors",
    "Calibration": "calibrant.recipe",
    "Evaluation": "calibrant.analysis.evaluate",
    "EndLayers": "calibrant.recipe",
    "Fusion": "calibrant.recipe",
    "InputOf": "calibrant.recipe",
    "Layer": "calibrant.recipe",
    "LayerInput": "calibrant.recipe",
    "Limit": "calibrant.recipe",
    "MappedLayers": "calibrant.recipe",
    "Note": "calibrant.recipe",
    "OpType": "calibrant.recipe",
    "Plan": "calibrant.plan",
    "Promotion": "calibrant.recipe",
    "QuantParams": "calibrant.numerics",
    "QuantSpec": "calibrant.numerics",
    "QuantizedModel": "calibrant.results",
    "Quantizer": "calibrant.compat.horizon",
    "Ranking": "calibrant.diagnose",
    "Recipe": "calibrant.recipe",
    "Rule": "calibrant.recipe",
    "Search": "calibrant.recipe",
    "Settings": "calibrant.recipe",
    "Source": "calibrant.recipe",
    "Statistics": "calibrant.stats",
    "Subgraph": "calibrant.recipe",
    "TensorStats": "calibrant.stats",
    "compare": "calibrant.analysis.compare",
    "dump_recipe": "calibrant.dialects",
    "evaluate": "calibrant.analysis.evaluate",
    "load_recipe": "calibrant.dialects",
    "observe": "calibrant.pipeline",
    "quantize": "calibrant.pipeline",
    "quantize_from_record": "calibrant.rebuild",
    "Requirement": "calibrant.tuner",
    "Runner": "calibrant.tuner",
    "TuningResult": "calibrant.tuner",
    "sensitivity": "calibrant.diagnose",
    "tune": "calibrant.tuner",
    "set_calib_qtype": "calibrant.compat.horizon",
}


def __getattr__(name: str) -> typing.Any:
    """Load a public name on first use."""
    import importlib

    if name in ("algorithms", "debug", "qat"):
        return importlib.import_module(f"calibrant.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'calibrant' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
