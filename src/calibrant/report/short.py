"""A summary in about five lines: what `repr` of a result shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["as_text", "facts", "with_parts"]

#: Outputs that are named one by one.
OUTPUTS = 3

#: What can be done with a result, for its last line.
NEXT = "save(folder), to_proto(), to_bytes(), summary, plan, params"


def as_text(summary: Mapping[str, Any]) -> str:
    """Return a result in a few lines; of a result without a summary, one line.

    Example:
        >>> as_text({})
        'QuantizedModel(not measured)'
    """
    if not summary:
        return "QuantizedModel(not measured)"
    head = f"QuantizedModel({summary['model']}, target {summary['target']})"
    rows = [*facts(summary), ("has", NEXT)]
    return "\n".join([head, *(f"  {label:<8} {text}" for label, text in rows)])


def facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a person asks first: layers, outputs, size, and warnings if there are any."""
    layers, size = summary["layers"], summary["size"]
    yield "layers", f"{layers['quantized']} quantized, {len(layers['float'])} left in float"
    yield "outputs", _outputs(summary["quality"]["outputs"])
    ratio = f"({size['ratio']:.0%})"
    yield "size", f"{in_bytes(size['float_bytes'])} -> {in_bytes(size['deploy_bytes'])} {ratio}"
    if count := len(summary["warnings"]):
        yield "warnings", f"{count}, the first: {summary['warnings'][0]}"


def _outputs(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    if not outputs:
        return "not measured"
    shown = [
        f"{name} {number(q['sqnr_db'], '.1f')} dB" for name, q in list(outputs.items())[:OUTPUTS]
    ]
    more = len(outputs) - OUTPUTS
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def with_parts(
    outputs: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each output with its figures, and behind it its parts, where it has several."""
    for name, figures in outputs.items():
        yield name, figures
        parts = figures.get("parts", ())
        if len(parts) > 1:
            yield from ((f"  {p['name']}", p) for p in parts)


def number(value: Any, form: str) -> str:
    """Format a number; what JSON has no number for is a text already."""
    return format(value, form) if isinstance(value, int | float) else str(value)


def in_bytes(count: int) -> str:
    """Return a size as a person reads it.

    Example:
        >>> in_bytes(3 * 2**19), in_bytes(2048)
        ('1.5 MiB', '2 KiB')
    """
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
