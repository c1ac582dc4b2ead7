"""Names of the registries, in `calibrant list` and in helps."""

from __future__ import annotations

import pytest

from calibrant.cli import main
from calibrant.cli._app import command
from calibrant.cli._names import NAMES, filled

#: Which option names which of the registries.
HELPS = [
    ("quantize", "--activation", "activations"),
    ("quantize", "--weight", "weights"),
    ("quantize", "--target", "targets"),
    ("quantize", "--dialect", "dialects"),
    ("init", "--target", "targets"),
    ("init", "--dialect", "dialects_for_models"),
    ("convert-config", "--to", "dialects_written"),
    ("convert-config", "--from", "dialects"),
    ("explain", "--dialect", "dialects"),
    ("evaluate", "--metric", "metrics"),
]


@pytest.mark.parametrize(("name", "option", "names"), HELPS)
def test_helps_name_what_the_registries_know(
    name: str, option: str, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, names, lambda: ["first", "registered-by-a-package"])
    sub = command().commands[name]
    with sub.make_context(name, [], resilient_parsing=True) as context:
        sub.get_help(context)
    said = next(p.help for p in sub.params if option in p.opts)
    assert "first, registered-by-a-package" in said


def test_no_help_has_a_placeholder_that_is_not_known() -> None:
    for sub in command().commands.values():
        for param in sub.params:
            assert "{" not in filled(getattr(param, "help", None))


@pytest.mark.parametrize(("name", "option", "names"), HELPS)
def test_a_shell_completes_the_names_that_the_registries_know(
    name: str,
    option: str,
    names: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_CALIBRANT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"calibrant {name} {option} ")
    monkeypatch.setenv("COMP_CWORD", "3")
    main([])
    assert capsys.readouterr().out.split() == NAMES[names]()
    first = NAMES[names]()[0]
    monkeypatch.setenv("COMP_WORDS", f"calibrant {name} {option} {first[:2]}")
    main([])
    told = capsys.readouterr().out.split()
    assert first in told
    assert told == [n for n in NAMES[names]() if n.startswith(first[:2])]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_CALIBRANT_COMPLETE", f"source_{shell}")
    main([])
    assert "_CALIBRANT_COMPLETE" in capsys.readouterr().out
