"""Say which layers stay in float because integers cannot carry them, and which should where speed is not all."""

from __future__ import annotations

import math

from calibrant.findings import IntegerOutputs, LeftInFloat
from calibrant.graph.targets import Target

__all__ = ["integer_outputs_message", "left_message"]

#: So many layers are named.
NAMED = 4


def left_message(found: LeftInFloat) -> str:
    """Return what became of layers that integers cannot carry.

    Example:
        >>> print(left_message(LeftInFloat({"mel": -5.1}, -4.0, 28.0)))
        The outputs collapse where these layers are quantized, so they stay in float: 'mel' (it alone leaves -5.1 dB). The outputs reach 28.0 dB, on average over their parts, and -4.0 dB with them in integers. To have them in integers all the same, give them a precision in a rule, such as int16.
    """
    told = [
        f"'{n}' (it alone leaves {_figure(db)})" for n, db in list(found.layers.items())[:NAMED]
    ]
    more = len(found.layers) - len(told)
    told += [f"{more} more"] if more > 0 else []
    return (
        f"The outputs collapse where these layers are quantized, so they stay in float: {', '.join(told)}. "
        f"The outputs reach {found.left_db:.1f} dB, on average over their parts, and {found.db:.1f} dB with them in integers. "
        "To have them in integers all the same, give them a precision in a rule, such as int16."
    )


def _figure(db: float) -> str:
    return f"{db:.1f} dB" if math.isfinite(db) else "numbers that are not finite"


def integer_outputs_message(found: IntegerOutputs, target: Target) -> str:
    """Return what it costs that layers answer in integers, and how to do without.

    Args:
        found: What was measured.
        target: The target that asks for it.
    """
    text = (
        f"The kernels that target '{target.name}' is made for answer in integers. That rounds outputs of layers once more, and "
        f"costs '{found.part}' {found.best_db - found.db:.1f} dB: {found.db:.1f} dB instead of {found.best_db:.1f} dB, on "
        f"{found.samples} samples."
    )
    if found.layers:
        names = [f"--skip '{n}'" for n in found.layers[:NAMED]]
        rest = len(found.layers) - len(names)
        more = f" and {rest} more (summary.json, integer_outputs)" if rest > 0 else ""
        text += (
            f" With {len(found.layers)} {'layer' if len(found.layers) == 1 else 'layers'} in float it reaches "
            f"{found.left_db:.1f} dB: {' '.join(names)}{more}."
        )
    return text
