"""Say why a quantized model is slower than its float model on the runtime here, and what would be faster."""

from __future__ import annotations

from calibrant.graph import targets
from calibrant.graph.targets import Target

__all__ = ["slower"]

#: A quantized model counts as slower from this share of the float model's time: medians differ by a few percent.
CLEARLY = 1.05


def slower(float_ms: float, quantized_ms: float, target: Target) -> str:
    """Return one or two sentences where the quantized model is clearly slower, otherwise an empty text.

    Args:
        float_ms: Median time of one inference of the float model [ms].
        quantized_ms: The same of the quantized model [ms].
        target: The target that the model was made for.

    Example:
        >>> slower(1.0, 1.04, targets.get("generic"))
        ''
    """
    if quantized_ms <= CLEARLY * float_ms:
        return ""
    head = (
        f"In ONNX Runtime on this machine the quantized model takes {quantized_ms:.3g} ms and the float model "
        f"{float_ms:.3g} ms: "
    )
    if target.measures_latency:
        return (
            f"{head}for the operators of this model, integer kernels are slower here than float kernels. "
            "On this machine the float model serves better."
        )
    local = [n for n in targets.builtin() if targets.get(n).measures_latency]
    named = " or ".join(f"'{name}'" for name in local)
    return (
        f"{head}target '{target.name}' places quantizers for other devices, and ONNX Runtime computes much of such a "
        f"model in float, with conversions in between. To run it here, take target {named}."
    )
