"""Standard output is for what calibrant prints."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from calibrant.runtime.stdout import nothing_on_stdout

NOISE = """
import ctypes, os
from calibrant.runtime.stdout import nothing_on_stdout
libc = ctypes.CDLL(None)
print("before")
with nothing_on_stdout():
    libc.puts(b"noise that is held back")
    os.write(1, b"noise that is not")
print("after")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no C library to ask")
def test_what_compiled_code_writes_is_thrown_away_and_nothing_else() -> None:
    said = subprocess.run(
        [sys.executable, "-c", NOISE], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["before", "after"]


def test_standard_output_comes_back_after_an_error() -> None:
    before = os.fstat(1).st_ino
    with pytest.raises(ZeroDivisionError), nothing_on_stdout():
        raise ZeroDivisionError
    assert os.fstat(1).st_ino == before
