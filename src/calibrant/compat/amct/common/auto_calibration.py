"""The classes of automatic calibration, where scripts for the toolkit import them from."""

from calibrant.compat.amct.own import (
    AutoCalibrationEvaluatorBase,
    AutoCalibrationStrategyBase,
    BinarySearchStrategy,
    CosineSimilaritySensitivity,
    MseSensitivity,
    SensitivityBase,
)

__all__ = [
    "AutoCalibrationEvaluatorBase",
    "AutoCalibrationStrategyBase",
    "BinarySearchStrategy",
    "CosineSimilaritySensitivity",
    "MseSensitivity",
    "SensitivityBase",
]
