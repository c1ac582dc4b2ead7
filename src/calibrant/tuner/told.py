"""What a vendor's procedure leaves beside a search: what each trial changed, its ranking, and the files of its tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from calibrant.save.folder import written_together
from calibrant.solution import Solution, build

__all__ = ["Folder", "Told"]

MODEL, CONFIG = "deploy.onnx", "quant_config.json"


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """What one phase of a procedure leaves.

    Args:
        solution: The phase's best model.
        config: Its configuration.
    """

    solution: Solution
    config: str


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a procedure tells beside its trials.

    Args:
        strategy: Its name.
        changes: What each trial changed, in their order.
        ranking: Layer -> what it was ranked by, the one that loses most first; empty where nothing was ranked.
        ranked_by: What that is, as a clause.
        advice: What to try next.
        texts: Files by name.
        folders: Phases by the name of their folder.
    """

    strategy: str
    changes: tuple[str, ...]
    ranking: Mapping[str, float] = field(default_factory=dict)
    ranked_by: str = ""
    advice: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Folder] = field(default_factory=dict)

    def save_folders(self, directory: str | Path) -> list[Path]:
        """Write a folder for each phase, with its model and its configuration.

        Raises:
            OutputError: A folder cannot be made or written.
        """
        found = []
        for name, folder in self.folders.items():
            place = Path(directory) / name
            with written_together(place) as temporary:
                ir.save(build(folder.solution).deploy, temporary / MODEL)
                (temporary / CONFIG).write_text(folder.config, encoding="utf-8")
            found += [place / MODEL, place / CONFIG]
        return found
