"""Functions and classes under the names that Horizon's tools have: another type for quantizers, and training.

Those of training (`calibrant.qat.horizon`) need torch, and load on first use.
"""

from typing import Any

from calibrant.compat._selectors import Selector
from calibrant.compat.horizon.qtypes import set_calib_qtype
from calibrant.retype import QTYPES, Quantizer

__all__ = [
    "QTYPES",
    "FakeQuantState",
    "ModuleNameQconfigSetter",
    "PrepareMethod",
    "Qconfig",
    "Quantizer",
    "Selector",
    "calibration_8bit_weight_16bit_act_qconfig_setter",
    "convert",
    "default_calibration_qconfig_setter",
    "default_qat_fixed_act_qconfig_setter",
    "default_qat_qconfig_setter",
    "export",
    "prepare",
    "qat_8bit_weight_16bit_act_qconfig_setter",
    "qat_8bit_weight_16bit_fixed_act_qconfig_setter",
    "set_calib_qtype",
    "set_fake_quantize",
]


def __getattr__(name: str) -> Any:
    """Load a function of training on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'calibrant.compat.horizon' has no attribute {name!r}")
    from calibrant import qat

    home = qat.horizon
    return home.SETTERS[name] if name in home.SETTERS else getattr(home, name)
