"""Which operands get a second 8-bit value for what the rounding of the first leaves.

| operator | inputs |
|---|---|
| Conv, ConvTranspose, Gemm | 1 |
| MatMul | 0, 1 |
| Resize | 0 |
| GridSample | 0, 1 |

The first value has 8 bits and one scale a tensor (a weight: one an output channel). A request for another
width, for a weight of few levels, or for scales by channel of the same activation contradicts it; then the
other request holds, and a note says so.

The arithmetic: `numerics.compensation`.
"""

from __future__ import annotations

from calibrant.recipe import Note, Settings

__all__ = ["COMPENSATED", "is_compensated", "places"]

#: Inputs whose 8-bit value may get a second one beside it.
COMPENSATED = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Resize": (0,),
    "GridSample": (0, 1),
}


def places() -> str:
    """Return the table as a clause."""
    return "; ".join(
        f"{op} input {' and '.join(map(str, inputs))}" for op, inputs in COMPENSATED.items()
    )


def is_compensated(
    settings: Settings,
    bits: int,
    edge: tuple[str, int | None],
    rule: str,
    notes: list[Note],
    *,
    levels: bool = False,
) -> bool:
    """Say whether an operand is compensated.

    Args:
        settings: Those of the input.
        bits: Its width.
        edge: Node and input; an output (None) is never compensated.
        rule: The rule that asks for it.
        notes: Gets what does not go together.
        levels: The operand is a weight that keeps few levels.
    """
    if not settings.compensation or edge[1] is None:
        return False
    reason = ""
    if bits != 8:
        reason = f"it compensates 8-bit values, and this one has {bits} bits"
    elif levels:
        reason = "its weight keeps few levels, and what these leave is more than rounding"
    if not reason:
        return True
    note = Note(rule, f"No error compensation of input {edge[1]} of '{edge[0]}': {reason}.")
    if note not in notes:
        notes.append(note)
    return False
