"""Scores from a command of the user's own, that is given the file of a model and prints JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from calibrant.errors import ConfigValueError
from calibrant.tuner.evaluator import Score
from calibrant.tuner.looks import Looks
from calibrant.tuner.own_code import score_of
from calibrant.tuner.paired import Paired
from calibrant.tuner.settling import Settles

__all__ = ["ByCommand", "Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """A command that scores a model: for scores that are taken on a device, or in another stack.

    Args:
        line: The command, with `{model}` where the path of the ONNX file belongs. Its last line on stdout is JSON: a number, or
            an object of scores by name.

    Raises:
        ConfigValueError: It is empty, or does not say `{model}`.
    """

    line: str

    def __post_init__(self) -> None:
        """Check it."""
        if "{model}" not in self.line:
            raise ConfigValueError(
                f"The evaluation command is '{self.line}'; it says {{model}} where the path of the model belongs."
            )


@dataclass(frozen=True, slots=True, eq=False)
class ByCommand:
    """A command of the user's own."""

    command: Command
    name: str = "score"
    higher_is_better: bool = True
    labelled: bool = True
    own: bool = True
    paired: Paired | None = None
    settling: Settles | None = None

    def looks(self, reference: float) -> Looks | None:
        """Return None: the user's code scores all samples at once."""
        return None

    def digest(self) -> str:
        """Return a text that is another one where scores may come out otherwise."""
        return repr(self.command)

    def score(self, model: ir.Model) -> Score:
        """Score a model.

        Raises:
            CalibrantError: The user's code failed, or gave no score.
        """
        with TemporaryDirectory(prefix="calibrant-") as folder:
            path = Path(folder) / "deploy.onnx"
            ir.save(model, path)
            words = [w.replace("{model}", str(path)) for w in shlex.split(self.command.line)]
            try:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                )
            except OSError as e:
                raise ConfigValueError(
                    f"The evaluation command cannot be run: {e.strerror}: {words[0]}"
                ) from e
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ConfigValueError(
                f"The evaluation command ended with {done.returncode}{f': {said[-1]}' if said else '.'}"
            )
        return score_of(_last_json(done.stdout), "The evaluation command", 0)


def _last_json(text: str) -> Any:
    r"""Return what the last lines say as JSON, of one line or several; the last line itself where they say none.

    Example:
        >>> _last_json("4 warnings\n0.5"), _last_json('ready\n{\n  "top1": 0.5\n}\n'), _last_json("ready")
        (0.5, {'top1': 0.5}, 'ready')
    """
    lines = text.strip().splitlines()
    for first in reversed(range(len(lines))):
        try:
            return json.loads("\n".join(lines[first:]))
        except ValueError:
            continue
    return lines[-1] if lines else None
