"""Copy the benchmark tables from benchmarks/results/ into README.md.

    python scripts/update_readme_tables.py            write them
    python scripts/update_readme_tables.py --check    change nothing; exit code 1 where README is not current

Figures are copied as they stand; only rows and columns are chosen, and cases put side by side.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from _marked import ROOT, table, update

RESULTS = ROOT / "benchmarks" / "results"

Row = dict[str, str]

#: Methods of the accuracy table that README leaves to the results file: ours, one algorithm each.
KEPT = ("calibrant default", "calibrant target onnxruntime")


def accuracy() -> str:
    """Return the accuracy of all cases, side by side: the default beside the rivals."""
    text = _read("accuracy")
    cases, samples = {}, []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        case = part.partition("\n")[0].strip()
        cases[case] = _rows(part)
        samples += [
            f"{case} {count}" for count in re.findall(r"^(\d+) samples", part, re.MULTILINE)
        ]
    methods = [r["method"] for r in next(iter(cases.values()))]
    shown = [m for m in methods if "calibrant" not in m or m.strip("*") in KEPT]
    columns, rows = ["method"], []
    for case, found in cases.items():
        columns += [f"{case}: {_metric(found[0])}", "SQNR, dB"]
    for method in shown:
        row, mark = [], ""
        for found in cases.values():
            cells = next((r for r in found if r["method"] == method), None)
            if cells is None:  # this tool was not run on this case
                row += ["-", "-"]
                continue
            row += [cells[_metric(cells)], cells["SQNR dB"]]
            mark = " ¹" if cells.get("") == "measured before" else mark
        rows.append([method + mark, *row])
    note = f"Evaluation samples: {', '.join(samples)}.\n\n" + (
        "¹ Measured earlier on the same samples, each tool in an environment of its own "
        "(versions in `benchmarks/accuracy.py`).\n\n"
    )
    return f"{table(columns, rows)}\n\n{note}{_source('accuracy')}"


def latency() -> str:
    """Return the latency table."""
    rows = _rows(_read("latency"))
    columns = [
        "case",
        "threads",
        "float ms",
        "calibrant ms",
        "ONNX Runtime int8 ms",
        "calibrant dB",
        "ONNX Runtime dB",
    ]
    return f"{table(columns, [[r[c] for c in columns] for r in rows])}\n\n{_source('latency')}"


def duration() -> str:
    """Return seconds and memory of whole quantizations, cases side by side; a batch of 1 is left out."""
    rows = [r for r in _rows(_read("quantize")) if "method" in r and r["batch"] != "1"]
    cases = list(dict.fromkeys(r["case"] for r in rows))
    columns = ["method"]
    for case in cases:
        columns += [f"{case}: first call, s", "second, s", "peak MB"]
    body = []
    for method in dict.fromkeys(r["method"] for r in rows):
        line = [method]
        for case in cases:
            r = next(r for r in rows if (r["case"], r["method"]) == (case, method))
            line += [r["first s"], r["second s"], r["peak MB"]]
        body.append(line)
    return f"{table(columns, body)}\n\n{_source('quantize')}"


def _read(name: str) -> str:
    return (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def _rows(text: str) -> list[Row]:
    """Return the rows of all tables of a text, by column."""
    rows: list[Row] = []
    columns: Sequence[str] = ()
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = ()
            continue
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if not columns:
            columns = cells
        elif not set(line) <= set("|-: "):
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def _metric(row: Row) -> str:
    """Return the name of the column behind the method."""
    return list(row)[1]


def _source(name: str) -> str:
    facts = dict(re.findall(r"^- (\w+): (.+)$", _read(name), flags=re.MULTILINE))
    return (
        f"{facts['Command']}, {facts['Date']}; {facts['Machine']}; {facts['Versions']}. "
        f"All rows: [benchmarks/results/{name}.md](benchmarks/results/{name}.md)."
    )


WRITERS = {"accuracy": accuracy, "latency": latency, "duration": duration}

if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    sys.exit(update("update_readme_tables.py", [ROOT / "README.md"], WRITERS, check=check))
