"""Where a run of training is, and how it comes to disk and back: a checkpoint of arrays and JSON, and a journal."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibrant.errors import ConfigValueError
from calibrant.qat.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["FLOAT", "Check", "Folder", "State", "chosen", "prefixed"]

#: Names of the files of a run.
CHECKPOINT, JOURNAL = "checkpoint.npz", "training.jsonl"
#: Folder in that of a run, for the float network that is trained beside.
FLOAT = "float"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the deployed model.

    Args:
        step: Steps that were done.
        epoch: The same in epochs.
        loss: Mean loss since the last look.
        score: Score of the deployed model.
        seconds: Since the run began [s].
    """

    step: int
    epoch: float
    loss: float
    score: float
    seconds: float


@dataclass(slots=True)
class State:
    """Where a run is; all of it is in a checkpoint.

    Args:
        step: Steps that were done.
        steps: Steps of the whole run, 0 where minutes decide and none is done.
        factor: What the rate is multiplied with since the run went back.
        returns: How often it went back.
        seconds: Wall time before this process [s].
        calibrated: Score of the calibrated model, that checkpoints are chosen by.
        floating: The same of the float model.
        best: The best one of the trained model.
        losses: Loss of every step.
        told: So many of the losses are in the checks.
        checks: Every look at the deployed model.
        notes: What went otherwise than planned.
    """

    step: int = 0
    steps: int = 0
    factor: float = 1.0
    returns: int = 0
    seconds: float = 0.0
    calibrated: float = math.nan
    floating: float = math.nan
    best: float = -math.inf
    losses: list[float] = field(default_factory=list)
    told: int = 0
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> State:
        """Return what JSON says."""
        checks = [Check(**c) for c in meta["checks"]]
        return cls(**{**meta, "checks": checks})


def prefixed(arrays: Arrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Return arrays under a folder of a checkpoint."""
    return {f"{prefix}/{k}": v for k, v in arrays.items()}


def chosen(arrays: Arrays, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a folder of a checkpoint."""
    return {
        k.removeprefix(f"{prefix}/"): v for k, v in arrays.items() if k.startswith(f"{prefix}/")
    }


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a run.

    Args:
        path: Where it is; None for a run that writes nothing.
        identity: What two runs have to share so that one can go on with the other.
    """

    path: Path | None
    identity: Mapping[str, Any]

    def within(self, name: str, further: Mapping[str, Any]) -> Folder:
        """Return a folder in this one, for a run beside.

        Args:
            name: Its name.
            further: What has to be shared, too.
        """
        path = self.path / name if self.path is not None else None
        return Folder(path, {**self.identity, **further})

    def check(self) -> None:
        """Refuse to go on where there is nothing.

        Raises:
            ConfigValueError: There is no folder.
        """
        if self.path is None:
            raise ConfigValueError("resume needs the folder of a run.")
        if not self.path.is_dir():
            raise ConfigValueError(f"There is no run to go on with: '{self.path}' does not exist.")

    def clear(self) -> None:
        """Take away what an earlier run, and the one of the float network beside it, left to go on with."""
        if self.path is not None:
            for place in (self.path, self.path / FLOAT):
                for name in (CHECKPOINT, JOURNAL):
                    (place / name).unlink(missing_ok=True)

    def begin(self, checks: Sequence[Check]) -> None:
        """Begin the journal with what was looked at so far; later lines are of a run that was killed, or of another one."""
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / JOURNAL).write_text("".join(map(_line, checks)), encoding="utf-8")

    def save(self, arrays: Arrays, state: State, seconds: float) -> None:
        """Write a checkpoint."""
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        meta = {"run": dict(self.identity), "state": {**state.as_json(), "seconds": seconds}}
        save_checkpoint(self.path / CHECKPOINT, arrays, meta)

    def load(self) -> tuple[dict[str, npt.NDArray[Any]], State] | None:
        """Read the checkpoint; None where there is none: a run that was killed while it calibrated left nothing.

        Raises:
            ConfigValueError: It is of another run.
        """
        if self.path is None or not (file := self.path / CHECKPOINT).is_file():
            return None
        arrays, meta = load_checkpoint(file)
        if meta["run"] != dict(self.identity):
            raise ConfigValueError(
                f"'{file}' is of a run with {meta['run']}; this one has {dict(self.identity)}."
            )
        return arrays, State.of(meta["state"])

    def tell(self, check: Check) -> None:
        """Write a line of the journal."""
        if self.path is None:
            return
        with (self.path / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(_line(check))


def _line(check: Check) -> str:
    return json.dumps(dataclasses.asdict(check)) + "\n"


def stays_finite(arrays: Arrays, before: Arrays) -> bool:
    """Whether no value of a state that was finite before is NaN or infinite. Constants of a network may be: masks of -inf."""
    return not any(
        bool((np.isfinite(before[k]) & ~np.isfinite(v)).any()) for k, v in arrays.items()
    )
