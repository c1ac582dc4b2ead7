"""How long the command line and the package take to be there.

    python benchmarks/startup.py

Each line is a new process, started in turn with `python -c pass` as the floor. The aims: `calibrant --help`
in at most 0.4 s and `import calibrant` in at most 0.5 s.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from _common import interleaved, median, parser, publish, table

REPEATS = 11


def main() -> None:
    """Measure and publish."""
    parser(__doc__).parse_args()
    python = sys.executable
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import numpy": [python, "-c", "import numpy"],
        "import onnxruntime": [python, "-c", "import onnxruntime"],
        "import calibrant": [python, "-c", "import calibrant"],
        "import calibrant; calibrant.quantize": [
            python,
            "-c",
            "import calibrant; calibrant.quantize",
        ],
        "calibrant --help": [str(Path(python).parent / "calibrant"), "--help"],
        "calibrant quantize --help": [
            str(Path(python).parent / "calibrant"),
            "quantize",
            "--help",
        ],
    }
    start = partial(subprocess.run, check=True, capture_output=True)
    seconds = interleaved({name: partial(start, c) for name, c in commands.items()}, REPEATS)
    publish(
        "startup",
        "Start-up time",
        f"Seconds of a new process, {REPEATS} interleaved repeats after one warm-up.\n\n"
        + table(
            ["command", "median", "least"],
            [[f"`{n}`", f"{median(s):.3f}", f"{min(s):.3f}"] for n, s in seconds.items()],
        ),
    )


if __name__ == "__main__":
    main()
