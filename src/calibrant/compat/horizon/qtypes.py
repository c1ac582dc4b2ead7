"""Give quantizers of a quantized model another type, without calibrating again.

The range stays; the scale follows the width:

    symmetric     s' = s * 2**(a-1) / 2**(b-1)                           from a to b bits
    asymmetric    the range that the old grid covers, on the new grid

A symmetric grid of 16 bits then holds every point of that of 8, its lowest too, which T / (2**15 - 1) would clip
(the lowest weight of a channel stands there). So one sees what 16 bits at one operand would bring before asking for them.

Source: docs/how-to/layers-and-precision.md, "See what another width would bring".
"""

from __future__ import annotations

from dataclasses import replace

from calibrant.compat._selectors import Selector, selected_by
from calibrant.errors import ConfigValueError, did_you_mean
from calibrant.findings import QualityFindings
from calibrant.plan.compensation import COMPENSATED, places
from calibrant.results import QuantizedModel, result_of
from calibrant.retype import QTYPES, Quantizer, quantizers_of, retyped

__all__ = ["set_calib_qtype"]


def set_calib_qtype(quantized: QuantizedModel, selector: Selector, qtype: str) -> QuantizedModel:
    """Return the model with another type at some quantizers.

    Args:
        quantized: A result of `calibrant.quantize`; it is not changed.
        selector: Which quantizers: the name of a node, a type of operator (`Conv`), `weight`, `activation`, a
            pair (node, input), a function of a `Quantizer`, or a list of these.
        qtype: `int8`, `int16`, `ec` (8 bits and a second value for the rest), or `float32`.

    Returns:
        A new result with both models; nothing of it was measured.

    Raises:
        ConfigValueError: An unknown type, nothing selected, `ec` where there is no place for it, or one
            reader of a tensor that all read as integers.
        ConfigTypeError: A selector of another form.
    """
    if qtype not in QTYPES:
        raise ConfigValueError(
            f"qtype is {qtype!r}; it is one of {', '.join(QTYPES)}.{did_you_mean(str(qtype), QTYPES)}"
        )
    solution, findings = quantized.solution, quantized.findings
    nodes = {n.name or "": n for n in solution.model.graph}
    selected = selected_by(selector, quantizers_of(solution), nodes)
    if qtype == "ec":
        _check_places(selected)
    unmeasured = replace(findings, quality=QualityFindings(), nodes=(), distances=(), latency=None)
    changed = retyped(solution, selected, qtype)
    return result_of(quantized.source, changed, unmeasured, statistics=quantized.statistics)


def _check_places(selected: list[Quantizer]) -> None:
    """Refuse error compensation where there is no place for it.

    Raises:
        ConfigValueError: There is none.
    """
    for q in selected:
        if q.input not in COMPENSATED.get(q.op_type, ()):
            raise ConfigValueError(
                f"Input {q.input} of '{q.node}' ({q.op_type}) has no place for error compensation. Places: {places()}."
            )
