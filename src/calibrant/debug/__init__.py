"""The accuracy debug tool, with the function names and arguments of the vendor's.

from calibrant import debug

debug.get_sensitivity_of_nodes("calibrated_model.onnx", "calibration_data/", metrics=["cosine-similarity", "mse"])
"""

from calibrant.debug.sensitivity import get_sensitivity_of_nodes

__all__ = ["get_sensitivity_of_nodes"]
