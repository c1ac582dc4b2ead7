"""Functions and classes under the names that the Ascend Model Compression Toolkit has."""

from calibrant.compat.amct.auto_calibration import (
    AutoCalibration,
    accuracy_based_auto_calibration,
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
]
