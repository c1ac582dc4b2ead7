"""The accuracy debug tool, with the function names and arguments of the vendor's.

from calibrant import debug

debug.get_sensitivity_of_nodes("calibrated_model.onnx", "calibration_data/", metrics=["cosine-similarity", "mse"])
"""

from calibrant.debug.acc_error import plot_acc_error
from calibrant.debug.channelwise import get_channelwise_data_distribution
from calibrant.debug.collapse import collapse_check
from calibrant.debug.distribution import plot_distribution
from calibrant.debug.listing import list_nodes
from calibrant.debug.raising import sensitivity_analysis
from calibrant.debug.runall import runall
from calibrant.debug.sensitivity import get_sensitivity_of_nodes
from calibrant.debug.tensor_analysis import tensor_analysis
from calibrant.debug.verifier import compare

__all__ = [
    "collapse_check",
    "compare",
    "get_channelwise_data_distribution",
    "get_sensitivity_of_nodes",
    "list_nodes",
    "plot_acc_error",
    "plot_distribution",
    "runall",
    "sensitivity_analysis",
    "tensor_analysis",
]
