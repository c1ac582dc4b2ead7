"""What a device runs, as data. Nothing else in the code asks what the device is.

A target answers where quantizers stand. It names

- `anchors`: operators whose inputs are quantized (they multiply in integers);
- `integer_outputs`: anchors that run in integers only when their output is quantized as well;
- `followers`: operators that stay in integers when all their inputs are integers already;
- `feeders`: operators that take integers when everything that reads their output does;
- `residuals`: additions that run inside the layer before them, and whose other operand is quantized;
- `fused`: activation functions that run inside the operator before them, so no quantizer stands between.

And how wide they are: `limits` lower what a recipe asks for an operand, with a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Target", "WidthLimit"]


@dataclass(frozen=True, slots=True)
class WidthLimit:
    """Widths that a device takes for an operand, where a recipe may ask for more.

    Args:
        op_type: Operator; None for all.
        input: Index of the operand, a weight or an activation; None for all.
        bits: Widths it takes.
        granted: Widths it takes besides where a rule for this operand alone is granted them: the device has a mode of
            its own for that.
    """

    op_type: str | None
    input: int | None
    bits: tuple[int, ...]
    granted: tuple[int, ...] = ()

    def nearest(self, bits: int) -> int:
        """Return the widest allowed width that is not above `bits`, or else the narrowest."""
        return max((b for b in self.bits if b <= bits), default=min(self.bits))


@dataclass(frozen=True, slots=True)
class Target:
    """A device profile.

    Args:
        name: Name as given on the command line.
        description: One sentence for `--help` and reports.
        anchors: Operators whose data inputs are quantized.
        integer_outputs: Those of them that need a quantized output to run in integers.
        followers: Operators kept in integers where all their data inputs are.
        feeders: Operators that take integers where all who read their output do.
        residuals: Additions that run inside the layer before them, under the same condition: their other operand
            is quantized, not what the layer answers.
        fused: Activation functions that the device runs inside the operator before them.
        shared: Operators whose input and output must have one range.
        widest: Operators whose inputs all take the width of the widest.
        limits: Operands that take fewer widths than the device has.
        unsigned: Activations are stored unsigned (the same grid moved by half its size).
        symmetric: Activations get zero point 0 unless a recipe says otherwise.
        zero_points: Activations may have a zero point; otherwise it is 0 whatever a recipe says, with a note.
        integer_bias: Biases are stored as int32 where they fit; otherwise they stay float.
        activation_bits: Widths of activations that the device runs.
        weight_bits: Widths of weights that the device runs.
        equalize: Channels may be rescaled between layers.
        channel_scales: The input of a depthwise convolution may have one scale a channel.
        one_quantizer: A tensor has one quantizer for all its readers where scales by channel would give it two.
        pairs_in_16_bits: Two neighbouring products are added in 16 bits, so scales of weights grow until all such
            sums fit.
        narrow_sums: Some processors add two products in 16 bits, others do not: `fit` lets scales of weights grow as
            far as the samples need it, `try` does that where it costs the others next to nothing, `ignore` does not.
        quantize_moved: A tensor that an operator has only moved is quantized again for its readers, with the
            same numbers.
        matmul_as_gemm: A MatMul of two matrices to which something is added is written as Gemm: the device has
            no integer kernel for the pair.
        measures_latency: The local runtime is the device, so latency is worth measuring.
    """

    name: str
    description: str
    anchors: frozenset[str]
    integer_outputs: frozenset[str] = frozenset()
    followers: frozenset[str] = frozenset()
    feeders: frozenset[str] = frozenset()
    residuals: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    widest: frozenset[str] = frozenset()
    limits: tuple[WidthLimit, ...] = ()
    unsigned: bool = False
    symmetric: bool = False
    zero_points: bool = True
    integer_bias: bool = True
    activation_bits: tuple[int, ...] = (8, 16)
    weight_bits: tuple[int, ...] = (4, 6, 7, 8, 16)
    equalize: bool = True
    channel_scales: bool = False
    one_quantizer: bool = False
    pairs_in_16_bits: bool = False
    narrow_sums: Literal["ignore", "try", "fit"] = "ignore"
    quantize_moved: bool = True
    matmul_as_gemm: bool = False
    measures_latency: bool = False

    def stores_unsigned(self, *, by_channel: bool) -> bool:
        """Say whether a quantizer of activations stores unsigned numbers.

        One with a scale for each channel is signed: no kernel of ONNX Runtime computes with it, and signed it is not
        taken for one that they know.
        """
        return self.unsigned and not by_channel
