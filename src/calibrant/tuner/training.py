"""What a search found as a configuration of training, for `calibrant train --recipe`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from calibrant.dialects import dump_recipe
from calibrant.errors import ConfigValueError
from calibrant.graph.load import ModelLike
from calibrant.recipe import Recipe

__all__ = ["DIALECTS", "check_training_file", "training_text"]

#: How the name of the file ends -> the dialect that it is written in.
DIALECTS = {".cfg": "amct-retrain-cfg", ".yaml": "native", ".yml": "native"}


def check_training_file(path: str | Path) -> None:
    """Check how the name of a configuration of training ends.

    Raises:
        ConfigValueError: It ends in nothing that is known.
    """
    if Path(path).suffix.lower() not in DIALECTS:
        raise ConfigValueError(
            f"The configuration of training is '{path}'; it ends in {', '.join(DIALECTS)}: .cfg for AMCT's retraining, .yaml for a "
            "recipe of calibrant."
        )


def training_text(
    recipe: Recipe, path: str | Path, model: ModelLike, lost: list[str] | None = None
) -> str:
    """Return a recipe as a configuration of training: the same layers and widths, with ranges that are learned.

    Args:
        recipe: What was found.
        path: The file it is for; its ending names the dialect.
        model: The float model, whose layers AMCT's file lists.
        lost: Gets what the dialect has no words for, one sentence each; None makes it an error.

    Raises:
        ConfigValueError: The file ends in nothing that is known.
        UnsupportedError: The dialect has no words for something, and nothing is to be `lost`.
    """
    check_training_file(path)
    dialect = DIALECTS[Path(path).suffix.lower()]
    wanted = replace(recipe, training=True)
    return dump_recipe(wanted, dialect, model=None if dialect == "native" else model, lost=lost)
