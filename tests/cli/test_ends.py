"""How the command line ends where it cannot go on: nobody reads, or the user has had enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calibrant.demo import digits

#: Interrupts while a module is looked for, as Ctrl-C does.
INTERRUPTED_AT = """
import sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from calibrant.cli import main
sys.exit(main({args!r}))
"""

LOADED_WITH_MAIN = """
import sys
before = set(sys.modules)
import calibrant.cli
print(*sorted(set(sys.modules) - before))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["list", "targets"], ["evaluate"]], ids=lambda w: w[0]
)
def test_nobody_reads(words: list[str], tmp_path: Path) -> None:
    """Help is written by rich, a list by click, and the line of `evaluate` by rich again."""
    if words == ["evaluate"]:
        data = tmp_path / "test.npz"
        np.savez(data, **digits.evaluation()._asdict())
        words = ["evaluate", str(digits.MODEL), "--data", str(data), "--metric", "top1"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "calibrant.cli", *words],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "module",
    ["calibrant.cli._run", "typer", "calibrant.cli._app", "calibrant.graph.targets", "numpy"],
)
def test_interrupted_while_a_module_loads(module: str) -> None:
    done = python(
        INTERRUPTED_AT.format(
            module=module, args=["list", "metrics" if module == "numpy" else "targets"]
        )
    )
    assert (done.returncode, done.stderr) == (130, "calibrant: error: interrupted.\n")
    assert done.stdout == ""


def test_what_loads_before_an_interruption_has_its_end() -> None:
    done = python(LOADED_WITH_MAIN)
    assert set(done.stdout.split()) <= {
        "__future__",
        "calibrant",
        "calibrant._version",
        "calibrant.cli",
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_errors_cannot_be_written_either() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "calibrant.cli", "nope"], stderr=full, check=False
        )
    assert done.returncode == 2
