"""A model that can be called, as an evaluator of the user's own is given it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from calibrant.errors import DataError
from calibrant.runtime.runtime import CPU, Runtime
from calibrant.runtime.saturation import kernels_are_exact
from calibrant.runtime.session import infer, open_session

__all__ = ["Net"]

Array = npt.NDArray[Any]


class Net:
    """A model that is called with its inputs.

        net(x)                          # one array for each input: the output, or a tuple where there are several
        net({"image": x})               # by name: outputs by name
        net.run(None, {"image": x})     # as a session of ONNX Runtime

    Args:
        model: The model.
        runtime: Where it runs.
        seen: Gets the feeds of every call; None keeps none.
    """

    def __init__(
        self, model: ir.Model, runtime: Runtime = CPU, seen: list[dict[str, Array]] | None = None
    ) -> None:
        """Open it."""
        self._model, self._seen = model, seen
        self._session = open_session(model, runtime=runtime, integers=kernels_are_exact(runtime))
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, *arrays: Any) -> Any:
        """Return the outputs.

        Args:
            arrays: One array for each input, or a mapping from names to arrays; tensors of other libraries too.

        Raises:
            DataError: An input is missing.
            ModelError: The model cannot be run on them.
        """
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            found = self._infer(arrays[0], self.outputs)
            return dict(zip(self.outputs, found, strict=True))
        if len(arrays) == 1 and isinstance(arrays[0], tuple | list) and len(self.inputs) > 1:
            arrays = tuple(arrays[0])
        if len(arrays) != len(self.inputs):
            raise DataError(
                f"The model is called with {len(arrays)} arrays; it has {len(self.inputs)} inputs: "
                f"{', '.join(self.inputs)}."
            )
        found = self._infer(dict(zip(self.inputs, arrays, strict=True)), self.outputs)
        return found[0] if len(found) == 1 else tuple(found)

    forward = __call__

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """Return some outputs, or all for None, as a session of ONNX Runtime does."""
        return self._infer(feeds, tuple(names) if names else self.outputs)

    def save(self, path: str | Path) -> Path:
        """Write the model as an ONNX file, for an evaluation that runs it elsewhere."""
        ir.save(self._model, path)
        return Path(path)

    def _infer(self, feeds: Mapping[str, Any], names: Sequence[str]) -> list[Array]:
        missing = [n for n in self.inputs if n not in feeds]
        if missing:
            raise DataError(f"The model is called without '{missing[0]}', which it reads.")
        used = {n: _array(feeds[n]) for n in self.inputs}
        if self._seen is not None:
            self._seen.append({n: x.copy() for n, x in used.items()})
        return [np.asarray(x) for x in infer(self._session, list(names), used)]


def _array(value: Any) -> Array:
    """Return an array, of a tensor of torch too."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
