"""Constants of a model that a module of torch learned, back in the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import nn

from calibrant.qat.graph import key_of

__all__ = ["with_learned"]


def with_learned(model: ir.Model, module: nn.Module) -> None:
    """Write what a network learned in the place of constants into its model, by name (`graph.key_of`)."""
    learned = getattr(module, "learned", None)
    if learned is None:
        return
    held = dict(learned.named_parameters())
    for name, value in model.graph.initializers.items():
        p, constant = held.get(key_of(name)), value.const_value
        if (
            p is not None
            and constant is not None
            and tuple(p.shape) == tuple(constant.numpy().shape)
        ):
            array = np.ascontiguousarray(p.detach().cpu().numpy())
            value.const_value = ir.tensor(array, name=value.name)
