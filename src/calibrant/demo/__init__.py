"""The main job on data that ships with calibrant: a naive setting fails, the default holds.

A small network that reads handwritten digits is quantized twice with the same 96 images: once as simply as
possible (one scale a weight, symmetric min-max ranges, nothing else), once with calibrant's default. Both
and the float model then read 600 other digits.
"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

__all__ = ["DEFAULT_FOLDER", "run"]

#: Where the results go unless asked otherwise, in the current directory.
DEFAULT_FOLDER = Path("calibrant-demo")

#: The default holds when it loses at most this much top-1 accuracy.
TOLERANCE = 0.01


def run(out: Path | None = None, json: bool = False) -> int:
    """Quantize the digits network naively and well, and say what came of it.

    Args:
        out: Folder for the results; None takes `calibrant-demo` in the current directory. It gets the
            results of both quantizations, in `naive/` and `default/`, the float model, its data
            (`calibration.npz`, `test.npz`), and `demo.json`.
        json: Print the numbers as JSON instead of a page.

    Returns:
        The exit code: 0 when the default keeps the float model's accuracy within one point, else 1.

    Raises:
        OutputError: The folder cannot be written.
    """
    from calibrant.demo.experiment import compare_settings
    from calibrant.demo.page import show

    outcome = compare_settings(DEFAULT_FOLDER if out is None else Path(out))
    if json:
        json_module.dump(outcome.as_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show(outcome)
    return 0 if outcome.default.top1 >= outcome.original.top1 - TOLERANCE else 1
