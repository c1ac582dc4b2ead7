"""A summary as HTML: what a notebook shows for a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from calibrant.report.short import as_text, facts, number, with_parts

__all__ = ["as_html"]


def as_html(summary: Mapping[str, Any]) -> str:
    """Return a table of what was done and one of the outputs; all text is escaped, nothing is loaded."""
    if not summary:
        return f"<pre>{escape(as_text(summary))}</pre>"
    head = f"<b>{escape(summary['model'])}</b> quantized for target {escape(summary['target'])}"
    shown = [f for f in facts(summary) if f[0] not in ("outputs", "warnings")]
    parts = [f"<div>{head}", _table(None, shown)]
    if outputs := summary["quality"]["outputs"]:
        columns = ("output", "SQNR, dB", "cosine", "largest error")
        parts.append(_table(columns, [_output(n, q) for n, q in with_parts(outputs)]))
    parts += [f"<div><b>Warning:</b> {escape(w)}</div>" for w in summary["warnings"]]
    return "".join([*parts, "</div>"])


def _output(name: str, quality: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (("sqnr_db", ".1f"), ("cosine", ".5f"), ("max_error", ".3g"))
    return (name, *(number(quality[key], form) for key, form in figures))


def _table(columns: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> str:
    head = f"<tr>{_cells(columns, 'th')}</tr>" if columns else ""
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _cells(texts: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{escape(t)}</{tag}>" for t in texts)
