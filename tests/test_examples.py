"""Every example runs on shipped data, is short, and is listed."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*/*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.parent.name)
def test_example_runs(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    runpy.run_path(str(script), run_name="__main__")
    output = capsys.readouterr().out
    assert len(output.splitlines()) >= 2
    assert "nan" not in output.lower()


def test_examples_are_one_short_script_a_folder_and_are_listed():
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    folders = [p for p in EXAMPLES.iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert len(folders) == len(SCRIPTS)
    for script in SCRIPTS:
        assert len(script.read_text(encoding="utf-8").splitlines()) < 80
        assert script.relative_to(EXAMPLES).as_posix() in index


def test_what_the_loader_example_claims(tmp_path, monkeypatch, capsys):
    script = EXAMPLES / "data_loader" / "data_loader.py"
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert "input equal bit for bit: True" in capsys.readouterr().out
