"""Numbers as a person reads them."""

from __future__ import annotations

import math
from typing import Any

from calibrant.report.short import in_bytes

__all__ = ["NOTHING", "TIMES", "as_db", "as_float", "as_percent", "figure", "in_bytes"]

#: What stands where there is no number; the signs of a difference and of a product.
NOTHING, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"


def as_float(value: Any) -> float:
    """Return a number; what JSON has no number for stands there as a text.

    Example:
        >>> as_float("inf"), as_float(3)
        (inf, 3.0)
    """
    return float(value) if value is not None else math.nan


def as_db(value: Any) -> str:
    """Return decibels.

    Example:
        >>> as_db(32.581), as_db("inf"), as_db(None)
        ('32.6 dB', 'exact', '\u2013')
    """
    number = as_float(value)
    if math.isnan(number):
        return NOTHING
    return "exact" if number == math.inf else f"{number:.1f} dB".replace("-", MINUS)


def as_percent(value: Any) -> str:
    """Return a share; small ones keep a digit that counts.

    Example:
        >>> as_percent(0.5), as_percent(0.00012), as_percent(0)
        ('50 %', '0.012 %', '0 %')
    """
    number = as_float(value)
    if math.isnan(number):
        return NOTHING
    percent = 100 * number
    text = f"{percent:.0f}" if abs(percent) >= 10 or percent == 0 else f"{percent:.2g}"
    return f"{text} %".replace("-", MINUS)


def figure(value: Any) -> str:
    """Return any number with four digits that count.

    Example:
        >>> figure(0.123456), figure(1234567.0), figure("nan")
        ('0.1235', '1.235e+06', '\u2013')
    """
    number = as_float(value)
    if math.isnan(number):
        return NOTHING
    return f"{number:.4g}".replace("-", MINUS) if math.isfinite(number) else str(number)
