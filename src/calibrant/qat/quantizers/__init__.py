"""Quantizers as modules of torch, one file each: what learns, and what the deployed model computes with it."""

from calibrant.qat.quantizers.activation import ActivationQuantizer, ActivationSpec
from calibrant.qat.quantizers.bias import BiasQuantizer
from calibrant.qat.quantizers.channels import ChannelQuantizer
from calibrant.qat.quantizers.weight import WEIGHTS, WeightQuantizer

__all__ = [
    "WEIGHTS",
    "ActivationQuantizer",
    "ActivationSpec",
    "BiasQuantizer",
    "ChannelQuantizer",
    "WeightQuantizer",
]
