"""Statistics on disk: taken again by another bench of the same model and data, and by no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrant import Bench
from calibrant.errors import OutputError
from calibrant.recipe import AlgorithmChoice, AllNodes, Recipe, Rule, Settings
from calibrant.tuning.shelf import Shelf
from tests.models import NETS

PLAIN = Recipe(
    rules=(Rule(AllNodes(), Settings(activation=AlgorithmChoice("min-max")), ""),),
    equalize="off",
    bias_correction="off",
)


def solved(cache: Path | None, data: Any = None, seed: int = 0) -> tuple[Bench, Any]:
    model, feeds = NETS["residual"]()
    bench = Bench(model, feeds(batch=40, seed=seed) if data is None else data, cache=cache)
    return bench, bench.found(PLAIN).statistics


def test_another_bench_takes_what_one_has_seen(tmp_path: Path) -> None:
    first, seen = solved(tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    second, again = solved(tmp_path / "kept")
    assert again == seen
    assert second.work.samples <= first.work.samples - 24  # 16 of the 40 are looked at in halves


def test_other_samples_are_other_statistics(tmp_path: Path) -> None:
    _, seen = solved(tmp_path)
    _, other = solved(tmp_path, seed=1)
    assert other != seen
    assert len(list(tmp_path.iterdir())) == 2


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    feed = NETS["residual"]()[1](batch=40, seed=0)
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, **feed)  # type: ignore[arg-type]
    solved(tmp_path / "kept", str(tmp_path / "a.npz"))
    solved(tmp_path / "kept", str(tmp_path / "b.npz"))
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_stream_is_not_kept(tmp_path: Path) -> None:
    feed = NETS["residual"]()[1]
    solved(tmp_path, iter([feed(batch=4, seed=s) for s in range(4)]))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    _, seen = solved(tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    _, again = solved(tmp_path)
    assert again == seen
    assert Shelf(tmp_path).folder == tmp_path
    assert len(file.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="file"):
        Shelf(tmp_path / "file" / "kept")
