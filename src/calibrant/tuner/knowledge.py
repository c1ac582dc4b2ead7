"""What was learned of an architecture: assignments that met a requirement, for the next model of the same structure.

A file for each structure (`graph.structure`) lists which precision each layer had, in graph order, so names may differ. What is
read there is only tried, like every other assignment: it saves evaluations where it holds, and costs one where it does not.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrant.errors import DataError, OutputError
from calibrant.tuning.menu import Assignment, Menu

__all__ = ["Knowledge"]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of one structure.

    Args:
        folder: Where the files are; it is made if it is not there.
        structure: Digest of the structure.
        target: What the models run on; what was learned for another target does not count.
    """

    folder: Path
    structure: str
    target: str

    @property
    def path(self) -> Path:
        """The file of this structure."""
        return self.folder / f"{self.structure[:32]}.json"

    def assignments(self, menu: Menu) -> list[Assignment]:
        """Return assignments that met a requirement and fit a menu, the cheapest first.

        Args:
            menu: What the layers of the model may be.

        Raises:
            DataError: The file cannot be read.
        """
        known = {tuple(e["precisions"]) for e in self._entries() if e["target"] == self.target}
        fit = [a for a in known if self._fits(a, menu)]
        return sorted(fit, key=lambda a: (menu.cost_of(a), a))

    def add(self, assignment: Assignment, told: dict[str, Any]) -> None:
        """Keep an assignment that met a requirement.

        Args:
            assignment: One precision a layer, in graph order.
            told: What is said of it, for people: the requirement, scores, the model.

        Raises:
            DataError: The file cannot be read.
            OutputError: It cannot be written; what was there is unchanged.
        """
        entries = self._entries()
        entry = {"target": self.target, "precisions": list(assignment), **told}
        if any(
            e["target"] == self.target and e["precisions"] == entry["precisions"] for e in entries
        ):
            return
        text = json.dumps({"version": 1, "met": [*entries, entry]}, indent=1) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(self.path)
        except OSError as e:
            raise OutputError(
                f"What was learned cannot be kept in '{self.folder}': {e.strerror}."
            ) from e

    def _entries(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            entries = content["met"]
            good = content["version"] == 1 and all(
                isinstance(e["target"], str) and all(isinstance(p, str) for p in e["precisions"])
                for e in entries
            )
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise DataError(f"'{self.path}' does not hold what tune has learned: {e}.") from e
        if not good:
            raise DataError(f"'{self.path}' does not hold what tune has learned.")
        return list(entries)

    @staticmethod
    def _fits(assignment: Assignment, menu: Menu) -> bool:
        if len(assignment) != len(menu.layers) or not set(assignment) <= set(menu.precisions):
            return False
        return menu.cost_of(assignment) < float("inf")
