"""Files that belong together are written together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from calibrant.errors import OutputError
from calibrant.save.folder import written_together


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


def fill(folder: Path, mark: str, names: str = "abc") -> None:
    for name in names:
        (folder / name).write_text(f"{name} {mark}")


def fail(folder: Path, error: Exception) -> None:
    """Write two files and break off."""
    fill(folder, "new", "ab")
    raise error


def test_files_appear_together_and_others_stay(tmp_path: Path) -> None:
    fill(tmp_path, "old", "bz")
    with written_together(tmp_path) as new:
        fill(new, "new")
        assert contents(new) == {n: f"{n} new" for n in "abc"}
        assert (tmp_path / "b").read_text() == "b old"
    assert contents(tmp_path) == {n: f"{n} new" for n in "abc"} | {"z": "z old"}


def test_files_of_another_time_go(tmp_path: Path) -> None:
    fill(tmp_path, "old", "abd")
    with written_together(tmp_path, instead_of=["b", "d", "e"]) as new:
        fill(new, "new", "ab")
    assert contents(tmp_path) == {"a": "a new", "b": "b new"}


def test_a_failure_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    fill(tmp_path, "old", "ab")
    with pytest.raises(OutputError, match="No space left"), written_together(tmp_path) as new:
        fail(new, OSError(28, "No space left on device"))
    assert contents(tmp_path) == {"a": "a old", "b": "b old"}


def test_a_mistake_of_our_own_is_not_called_a_full_disk(tmp_path: Path) -> None:
    fill(tmp_path, "old", "a")
    with pytest.raises(ZeroDivisionError), written_together(tmp_path) as new:
        fail(new, ZeroDivisionError())
    assert contents(tmp_path) == {"a": "a old"}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_a_failure_while_moving_brings_everything_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, links: bool
) -> None:
    fill(tmp_path, "old", "bcd")
    replace, moved = Path.replace, 0

    def fragile(self: Path, target: Path) -> Path:
        nonlocal moved
        if self.parent.name == "new":
            moved += 1
            if moved == failing + 1:
                raise OSError(5, "Input/output error")
        return replace(self, target)

    def no_link(_source: Path, _target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    unlink = Path.unlink

    def fragile_unlink(self: Path, missing_ok: bool = False) -> None:
        if failing == 3 and self == tmp_path / "d":
            raise OSError(5, "Input/output error")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "replace", fragile)
    monkeypatch.setattr(Path, "unlink", fragile_unlink)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with (
        pytest.raises(OutputError, match=r"Input/output error\. What was there is unchanged"),
        written_together(tmp_path, instead_of=["d"]) as new,
    ):
        fill(new, "new")
    assert contents(tmp_path) == {n: f"{n} old" for n in "bcd"}


def test_a_folder_is_made_and_goes_again_if_nothing_came_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(OutputError), written_together(folder):
        raise OSError(28, "No space left on device")
    assert not folder.exists()
    with written_together(folder) as new:
        fill(new, "new", "a")
    assert contents(folder) == {"a": "a new"}


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("a file")
    with (
        pytest.raises(OutputError, match=r"Cannot write into the folder '.*run'"),
        written_together(path),
    ):
        pass
    assert path.read_text() == "a file"
