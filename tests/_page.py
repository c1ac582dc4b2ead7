"""Run the code blocks of a page in one process, in order: `python tests/_page.py < blocks.json`.

The blocks are pairs (language, text). Python blocks see each other's names. Of a shell block, lines `calibrant …` are
run by the function that the command `calibrant` calls, since starting an interpreter for each costs more than the rest;
what stands between them goes to bash. A block whose shell is more than that goes to bash as a whole.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["commands"]

#: Signs of a line that a shell has to read, and words of a block whose lines depend on each other.
SHELL = re.compile(r"[|<>;&$`\\*?~(){}]")
STATE = re.compile(r"^\s*(cd|export|set|source|if|for|while) ", re.MULTILINE)


def commands(block: str) -> Iterator[list[str] | str]:
    """Yield the arguments of each `calibrant` line, and as a text what stands between them.

    Example:
        >>> list(commands("calibrant init a.onnx\\ncp a b\\n"))
        [['init', 'a.onnx'], 'cp a b\\n']
    """
    kept: list[str] = []
    end: str | None = None  # of a here-document
    for line in block.splitlines(keepends=True):
        opened = re.search(r"<<'?(\w+)'?", line) if end is None else None
        if end is None and line.startswith("calibrant ") and not SHELL.search(line):
            if kept:
                yield "".join(kept)
                kept = []
            yield shlex.split(line)[1:]
            continue
        kept.append(line)
        if opened is not None:
            end = opened[1]
        elif line.strip() == end:
            end = None
    if kept:
        yield "".join(kept)


def _run(language: str, text: str) -> None:
    if language == "python":
        exec(compile(text, "<page>", "exec"), sys.modules["__main__"].__dict__)
        return
    from calibrant.cli import main

    for part in [text] if STATE.search(text) else commands(text):
        if isinstance(part, str):
            subprocess.run(["bash", "-euo", "pipefail", "-c", part], check=True)
        elif code := main(part):
            sys.exit(f"calibrant {shlex.join(part)} ended with {code}")


if __name__ == "__main__":
    for language, text in json.load(sys.stdin):
        _run(language, text)
        sys.stdout.flush()
