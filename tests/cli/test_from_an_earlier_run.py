"""What an option of an earlier run counts for where another is given now."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calibrant.cli._call import CALL, filled


def given(*names: str) -> Any:
    """Return a context in which these options were given."""
    source = {n: SimpleNamespace(name="COMMANDLINE") for n in names}
    return SimpleNamespace(get_parameter_source=source.get)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    said = {
        "train_minutes": 10,
        "train_epochs": None,
        "strategy": "amct-rollback",
        "moves": "none",
    }
    (tmp_path / CALL).write_text(json.dumps(said))
    return tmp_path


NOW = {"train_minutes": None, "train_epochs": None, "strategy": "auto", "moves": "auto"}


def test_what_is_not_given_is_as_before(earlier: Path) -> None:
    found = filled(NOW, given(), earlier)
    assert found == json.loads((earlier / CALL).read_text())


def test_one_budget_takes_the_place_of_another(earlier: Path) -> None:
    found = filled({**NOW, "train_epochs": 3}, given("train_epochs"), earlier)
    assert (found["train_minutes"], found["train_epochs"]) == (None, 3)
    assert found["moves"] == "none"
