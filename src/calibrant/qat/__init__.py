"""Train a network with its quantizers: the very graph that is deployed.

Everything here needs torch (`pip install "calibrant[torch]"`) and loads on first use.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from calibrant.errors import MissingPackageError

__all__ = [
    "Fitted",
    "Trainable",
    "amct",
    "check_torch",
    "fit",
    "functional",
    "gradient_sensitivity",
    "horizon",
    "prepare",
    "train_files",
]

#: Where each public name lives; a module stands for itself.
_HOMES: dict[str, str] = {
    "Fitted": "calibrant.qat.fitting",
    "Trainable": "calibrant.qat.trainable",
    "amct": "calibrant.qat.amct",
    "fit": "calibrant.qat.fitting",
    "functional": "calibrant.qat.functional",
    "gradient_sensitivity": "calibrant.qat.ranking",
    "horizon": "calibrant.qat.horizon",
    "prepare": "calibrant.qat.trainable",
    "train_files": "calibrant.qat.files",
}


_MISSING = (
    'Training needs the package torch, which is not installed: pip install "calibrant[torch]".'
)


def check_torch() -> None:
    """Check that torch is there, before anything that takes long is begun.

    Raises:
        MissingPackageError: It is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(_MISSING)


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'calibrant.qat' has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOMES[name])
    except ModuleNotFoundError as e:
        if e.name != "torch":
            raise
        raise MissingPackageError(_MISSING) from e
    return module if _HOMES[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
