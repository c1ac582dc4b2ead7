"""Numbers: grids, what is asked, what was chosen, and the arithmetic between them. numpy only."""

from calibrant.numerics.affine import dequantize, fake_quantize, quantize
from calibrant.numerics.dtype import IntType
from calibrant.numerics.params import QuantParams
from calibrant.numerics.spec import QuantSpec

__all__ = ["IntType", "QuantParams", "QuantSpec", "dequantize", "fake_quantize", "quantize"]
