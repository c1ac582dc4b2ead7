"""The state of a run on disk: arrays in an .npz file, and what is no array as JSON in it. Nothing in it is executed.

A file is written beside its place and moved there, so a run that is killed leaves a whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from calibrant.errors import ConfigValueError, OutputError

__all__ = ["load_checkpoint", "save_checkpoint", "state_of", "with_state"]

Arrays = dict[str, npt.NDArray[Any]]

_META = "meta"


def state_of(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Arrays:
    """Return the state of a module and of its optimizer as arrays, by name; they are copies."""
    arrays = {f"module/{k}": _array(v) for k, v in module.state_dict().items()}
    if optimizer is not None:
        for index, held in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{index}/{k}": _array(v) for k, v in held.items()}
    return arrays


def with_state(
    arrays: Mapping[str, npt.NDArray[Any]],
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Bring a module and its optimizer into a state, in place.

    Raises:
        ConfigValueError: The state is that of another network or recipe.
    """
    held = {k.removeprefix("module/"): v for k, v in arrays.items() if k.startswith("module/")}
    own = module.state_dict()
    if {k: v.shape for k, v in held.items()} != {k: tuple(v.shape) for k, v in own.items()}:
        raise ConfigValueError("The checkpoint belongs to another network or another recipe.")
    module.load_state_dict({k: _tensor(v) for k, v in held.items()})
    if optimizer is None:
        return
    state = optimizer.state_dict()
    found: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            found.setdefault(int(index), {})[key] = _tensor(array)
    optimizer.load_state_dict({**state, "state": found})


def save_checkpoint(path: Path, arrays: Mapping[str, npt.NDArray[Any]], meta: Any) -> None:
    """Write a state.

    Raises:
        OutputError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            named: dict[str, Any] = {_META: np.array(json.dumps(meta)), **arrays}
            np.savez(file, **named)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"The checkpoint '{path}' cannot be written: {e.strerror or e}.") from e


def load_checkpoint(path: Path) -> tuple[Arrays, Any]:
    """Read a state.

    Raises:
        ConfigValueError: The file is no checkpoint.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {k: stored[k] for k in stored.files}
        meta = json.loads(str(arrays.pop(_META)))
    except (OSError, ValueError, KeyError, EOFError) as e:
        raise ConfigValueError(f"'{path}' is no checkpoint of a training run: {e}.") from e
    return arrays, meta


def _array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, Tensor):
        array: npt.NDArray[Any] = value.detach().cpu().numpy().copy()
        return array
    return np.asarray(value)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))
