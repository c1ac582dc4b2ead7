"""What was done to a float model before quantizers were put into it, so that it can be done again.

    prepare → fold → float16 → balance as asked → equalize → balance

Source: docs/how-to/records.md for what a record says of it (`skip_fusion`, `tensor_balance_factor`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.graph.passes.balance import Balanced, balance
from calibrant.graph.passes.equalize import Equalized, rescale
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.graph.passes.half import to_half
from calibrant.graph.passes.half_outputs import round_outputs
from calibrant.graph.passes.pairs import find_pairs
from calibrant.graph.values import values_by_name

__all__ = ["ModelForm"]


@dataclass(frozen=True, slots=True)
class ModelForm:
    """The passes over one model, with their numbers.

    Args:
        fold: Batch normalizations were folded.
        keep_batch_norm: Layers whose batch normalization stayed.
        half: Nodes that compute in float16.
        balanced: Muls that were put in.
        equalized: Tensors whose channels were rescaled, in their order.
        half_outputs: The outputs were rounded through float16.
        half_later: Nodes that compute in float16 because they were raised, after all else.
        overflows: Nodes in float16 that saturate, with how many of their values did.
    """

    fold: bool = True
    keep_batch_norm: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    balanced: tuple[Balanced, ...] = ()
    equalized: tuple[Equalized, ...] = ()
    half_outputs: bool = False
    half_later: tuple[str, ...] = ()
    overflows: tuple[tuple[str, int], ...] = ()

    def apply(self, model: ir.Model) -> None:
        """Do it again to a prepared model, in place.

        Raises:
            ConfigValueError: The model lacks a node or tensor, or has another number of channels.
        """
        if self.fold:
            fuse_batchnorm(model, skip=self.keep_batch_norm)
        if self.half_outputs:
            round_outputs(model)
        _check_nodes(
            model, [*self.half, *self.half_later, *(n for b in self.balanced for n in b.layers)]
        )
        if self.half:
            to_half(model, self.half, dict(self.overflows))
        for b in self.balanced:
            if b.asked:
                _balance(model, b)
        pairs = {p.tensor: p for p in find_pairs(model)} if self.equalized else {}
        for e in self.equalized:
            if e.tensor not in pairs:
                raise ConfigValueError(
                    f"The record says that the channels of tensor '{e.tensor}' were rescaled; the model has no such "
                    f"tensor between layers.{did_you_mean(e.tensor, pairs)}"
                )
            rescale(model, pairs[e.tensor], np.array(e.factors))
        for b in self.balanced:
            if not b.asked:
                _balance(model, b)
        if self.half_later:
            to_half(model, self.half_later, dict(self.overflows))


def _balance(model: ir.Model, b: Balanced) -> None:
    tensors = values_by_name(model.graph)
    if b.tensor not in tensors:
        raise ConfigValueError(
            f"The record balances tensor '{b.tensor}', which the model does not have."
            + did_you_mean(b.tensor, tensors)
        )
    balance(model, b.tensor, b.layers, b.factors.astype(np.float64))


def _check_nodes(model: ir.Model, names: list[str]) -> None:
    known = {n.name for n in model.graph}
    for name in names:
        if name not in known:
            raise ConfigValueError(
                f"The record names layer '{name}', which the model does not have."
                + did_you_mean(name, [k for k in known if k])
            )
