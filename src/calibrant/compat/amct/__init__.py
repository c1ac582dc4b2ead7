"""Functions and classes under the names that the Ascend Model Compression Toolkit has.

Those of training need torch, and load on first use.
"""

from typing import Any

from calibrant.compat.amct.accuracy_based_auto_calibration import (
    AutoCalibration,
    accuracy_based_auto_calibration,
)
from calibrant.compat.amct.calibrate import (
    create_quant_config,
    quantize_model,
    quantize_preprocess,
    save_model,
)
from calibrant.compat.amct.net import Net
from calibrant.compat.amct.own import (
    AutoCalibrationEvaluatorBase,
    AutoCalibrationStrategyBase,
    BinarySearchStrategy,
    CosineSimilaritySensitivity,
    MseSensitivity,
    SensitivityBase,
)

__all__ = [
    "AutoCalibration",
    "AutoCalibrationEvaluatorBase",
    "AutoCalibrationStrategyBase",
    "BinarySearchStrategy",
    "CosineSimilaritySensitivity",
    "MseSensitivity",
    "Net",
    "SensitivityBase",
    "accuracy_based_auto_calibration",
    "create_quant_config",
    "create_quant_retrain_config",
    "create_quant_retrain_model",
    "quantize_model",
    "quantize_preprocess",
    "restore_quant_retrain_model",
    "save_model",
    "save_quant_retrain_model",
]

#: Functions of training (`calibrant.qat.amct`).
_TRAINING = frozenset(
    {
        "create_quant_retrain_config",
        "create_quant_retrain_model",
        "restore_quant_retrain_model",
        "save_quant_retrain_model",
    }
)


def __getattr__(name: str) -> Any:
    """Load a function of training on first use."""
    if name not in _TRAINING:
        raise AttributeError(f"module 'calibrant.compat.amct' has no attribute {name!r}")
    from calibrant import qat

    return getattr(qat.amct, name)
