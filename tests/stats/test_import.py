"""Importing the statistics costs nothing until values are counted."""

from __future__ import annotations

import subprocess
import sys


def test_numba_and_pydantic_load_on_use():
    code = (
        "import sys, calibrant.stats, calibrant.algorithms;"
        "print(sorted({'numba', 'pydantic'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
