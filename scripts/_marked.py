"""Parts of a Markdown file that a script writes: they stand between two comments.

<!-- written by scripts/update_docs.py: NAME -->
…
<!-- end -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

__all__ = ["ROOT", "table", "update"]

ROOT = Path(__file__).resolve().parents[1]

Writers = Mapping[str, Callable[[], str]]


def update(script: str, files: Iterable[Path], writers: Writers, *, check: bool) -> int:
    """Write every marked part of some files anew, or say which are not current.

    Args:
        script: Name of the script, as it stands in the marks.
        files: Markdown files.
        writers: Name of a part -> what makes its text.
        check: Change nothing.

    Returns:
        The exit code: 1 where `check` found an old part, else 0.
    """
    mark = re.compile(
        rf"(<!-- written by scripts/{re.escape(script)}: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL
    )
    texts: dict[str, str] = {}
    old = []
    for path in files:
        text = path.read_text(encoding="utf-8")

        def written(match: re.Match[str], path: Path = path) -> str:
            name = match[2]
            if name not in writers:
                sys.exit(f"{path}: nothing writes the part '{name}'. Known: {', '.join(writers)}.")
            if name not in texts:
                texts[name] = writers[name]().strip()
            return f"{match[1]}\n{texts[name]}\n\n{match[3]}"

        new = mark.sub(written, text)
        if new != text:
            old.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if missing := [name for name in writers if name not in texts]:
        sys.exit(f"No file has the part {', '.join(missing)}.")
    if check and old:
        print(f"Not current: {', '.join(old)}. Run: python scripts/{script}")
        return 1
    return 0


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; signs that would end a cell are escaped."""
    columns = list(columns)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += [
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in row) + " |"
        for row in rows
    ]
    return "\n".join(lines)
