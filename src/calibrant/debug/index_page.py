"""The page of a run of the debug tool: one HTML file beside the pictures, which opens offline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calibrant.debug.ranked import Ranked
from calibrant.report.page.debugged import next_steps
from calibrant.report.page.sections.debugged import TITLES

__all__ = ["Part", "index_page"]


@dataclass(slots=True)
class Part:
    """One part of a run.

    Args:
        name: Its folder.
        failed: Why it failed; empty where it did not.
        files: What it wrote, from the folder of the run on.
        found: What it found, as plain values.
    """

    name: str
    failed: str = ""
    files: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)


#: Nodes of a ranking that are shown.
SHOWN = 20

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .2em .8em; text-align: left; border-bottom: 1px solid #8885; }
img { max-width: 100%; background: white; margin: .4em 0; }
.failed { border-left: 4px solid #c33; padding-left: .8em; }
"""


def index_page(parts: Sequence[Part], rankings: Sequence[Ranked], samples: int) -> str:
    """Return the page.

    Args:
        parts: What was done.
        rankings: Nodes by what the outputs lose.
        samples: Samples that were looked at.
    """
    body = [f"<h1>Accuracy debug tool</h1><p>{samples} sample{'s' * (samples != 1)}.</p>"]
    body.append(_next_steps(parts))
    for part in parts:
        body.append(f'<section id="{part.name}"><h2>{TITLES[part.name]}</h2>')
        if part.failed:
            body.append(f'<p class="failed" role="alert">Failed: {html.escape(part.failed)}</p>')
        body += (
            [_ranking(r) for r in rankings] if part.name == "node_sensitivity" else [_said(part)]
        )
        body += [_file(f) for f in part.files]
        body.append("</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Accuracy debug tool</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _next_steps(parts: Sequence[Part]) -> str:
    steps = next_steps({p.name: p.found for p in parts})
    if not steps:
        return ""
    items = "".join(f"<li>{html.escape(s)}</li>" for s in steps)
    return f"<section><h2>What to do next</h2><ul>{items}</ul></section>"


def _ranking(ranking: Ranked) -> str:
    head = ["node", "type", "to", *ranking.metrics, "cause", "clipped"]
    rows = [
        [
            *(n.name, n.op_type, n.qtype),
            *(f"{n.metrics[m]:.8g}" for m in ranking.metrics),
            *(n.cause, f"{n.clip_share:.3%}"),
        ]
        for n in ranking.nodes[:SHOWN]
    ]
    more = len(ranking.nodes) - len(rows)
    note = f"<p>{more} more in sensitivity_of_{ranking.kind}.csv.</p>" if more > 0 else ""
    return f"<h3>{ranking.kind}</h3>{_table(head, rows)}{note}"


def _said(part: Part) -> str:
    """Return what a part found, as a table where it is about nodes."""
    found = part.found
    if part.name in ("data_distribution", "channelwise_distribution", "tensor_analysis"):
        keys = list(dict.fromkeys(k for of in found.values() for k in of))
        rows = [[n, *(_number(of.get(k)) for k in keys)] for n, of in found.items()]
        return _table(["node", *keys], rows) if rows else ""
    if part.name == "sensitivity_analysis" and found:
        rows = [[s, _number(v)] for s, v in found["steps"].items()]
        return f"<p>{html.escape(found['note'])}</p>" + _table(["step", found["metric"]], rows)
    if part.name == "accumulate_error" and found:
        steps = found["steps"]
        rows = [
            [c, _number(v), ", ".join(steps.get(c, ())[:SHOWN])] for c, v in found["last"].items()
        ]
        return _table(
            ["curve", f"{found['metric']} at the last node", "steps of more than 1 %"], rows
        )
    return f"<p>{html.escape(str(found.get('message', '')))}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


def _file(path: str) -> str:
    safe = html.escape(path, quote=True)
    if path.endswith(".png"):
        return f'<figure><img src="{safe}" alt="{safe}" loading="lazy"></figure>'
    return f'<p><a href="{safe}">{safe}</a></p>'


def _number(value: Any) -> str:
    return (
        f"{value:.6g}" if isinstance(value, int | float) else "" if value is None else str(value)
    )
