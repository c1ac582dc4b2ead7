"""Models as other packages take them: an `onnx.ModelProto`, or its bytes."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import onnx
import onnx_ir as ir

from calibrant.errors import ModelError
from calibrant.graph.values import own_copy

__all__ = ["PROTOBUF_LIMIT", "HoldsModel", "TorchModule", "as_proto", "held_model"]

#: Protobuf messages end at 2 GiB; a model with more bytes of weights goes through files.
PROTOBUF_LIMIT = 2**31 - 2**24


@runtime_checkable
class HoldsModel(Protocol):
    """Something that stands for the model it deploys, such as the result of a quantization."""

    @property
    def deploy(self) -> ir.Model:
        """The model."""
        ...


@runtime_checkable
class TorchModule(Protocol):
    """A module of torch (`torch.nn.Module`)."""

    def forward(self, *args: Any) -> Any:
        """Answer."""
        ...

    def state_dict(self) -> Any:
        """Return parameters and buffers by name."""
        ...

    def named_parameters(self) -> Any:
        """Yield parameters by name."""
        ...


def held_model(model: Any) -> Any:
    """Return the deployed model of a result, and anything else as it is."""
    return model.deploy if isinstance(model, HoldsModel) else model


def as_proto(model: ir.Model) -> onnx.ModelProto:
    """Return a model with all its weights in one message.

    Raises:
        ModelError: It is larger than a message can be (2 GiB).
    """
    weights = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    size = sum(w.nbytes for w in weights if w is not None)
    if size > PROTOBUF_LIMIT:
        raise ModelError(
            f"The model has {size / 2**30:.1f} GiB of weights, and one message of ONNX holds 2 GiB; "
            "save it into a folder, where weights stand in a file of their own."
        )
    return ir.to_proto(own_copy(model))
