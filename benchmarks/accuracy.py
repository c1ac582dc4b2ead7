"""What quantization costs in accuracy: the default, every activation algorithm, and the rivals.

    python benchmarks/accuracy.py [CASE …]

Every model is int8 in weights and activations, calibrated on the samples of the case, and run in ONNX
Runtime on 2 threads. Where its integer kernels saturate on this CPU (x86-64 without VNNI), every model is computed as it is
meant, without them: figures do not depend on the CPU. `SQNR` is the signal to noise ratio of the outputs against the float model's,
`same top-1` the share of samples whose largest output is at the same place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _ours
import _rivals
import numpy as np
from _common import (
    agreement,
    case_names,
    load_case,
    parser,
    publish,
    say,
    split,
    sqnr_db,
    table,
)

from calibrant.runtime.measure import run
from calibrant.runtime.runtime import Runtime
from calibrant.runtime.saturation import kernels_are_exact

THREADS = 2
NOTE = (
    "Every model is computed without integer kernels that saturate (x86-64 CPUs without VNNI), so the figures are those of "
    "any CPU."
)
#: Samples the published numbers were measured on, where that is not all of them.
LIMITS = {"resnet20-cifar10": 2000}

#: Metric, SQNR in dB and agreement that rivals reached on the same calibration and evaluation samples,
#: ONNX Runtime 1.31.1, an x86-64 machine with AVX512-VNNI. Measured before by the project, each rival in an
#: environment of its own: AIMET 2.42, NNCF, Quark 0.13.
PUBLISHED: dict[str, dict[str, tuple[float, float, float]]] = {
    "kws-dscnn": {
        "AIMET cross-layer equalization": (0.9193, 25.1, 0.990),
        "AIMET tf-enhanced": (0.9204, 26.5, 0.988),
        "NNCF bias correction": (0.9181, 23.3, 0.981),
        "NNCF default": (0.9215, 23.1, 0.982),
        "Quark bias correction": (0.9015, 17.8, 0.962),
        "Quark cross-layer equalization": (0.9082, 18.4, 0.970),
        "Quark min-mse": (0.9193, 20.3, 0.981),
    },
    "resnet20-cifar10": {
        "AIMET cross-layer equalization": (0.8740, 30.6, 0.993),
        "AIMET tf-enhanced": (0.8755, 30.9, 0.990),
        "NNCF bias correction": (0.8720, 17.2, 0.989),
        "NNCF default": (0.8725, 17.2, 0.989),
        "Quark bias correction": (0.8750, 28.7, 0.988),
        "Quark cross-layer equalization": (0.8745, 27.9, 0.988),
        "Quark min-mse": (0.8750, 27.3, 0.982),
    },
    "mobilenetv1-025-imagenet": {
        "AIMET cross-layer equalization": (0.4200, 9.5, 0.596),
        "AIMET tf-enhanced": (0.4200, 9.5, 0.596),
        "NNCF bias correction": (0.5160, 16.2, 0.844),
        "NNCF default": (0.5160, 16.2, 0.844),
        "Quark bias correction": (0.3920, 8.1, 0.516),
        "Quark cross-layer equalization": (0.4560, 11.5, 0.656),
        "Quark min-mse": (0.3960, 8.7, 0.592),
    },
}
BEST_RIVAL_DB = {"kws-dscnn": 26.9, "resnet20-cifar10": 30.9, "mobilenetv1-025-imagenet": 16.2}


@dataclass(frozen=True)
class Score:
    """How good one model is: the task metric, the SQNR in dB, and the agreement."""

    metric: float
    sqnr_db: float
    agreement: float

    def row(self, name: str, note: str = "") -> list[str]:
        """Return a row of the table."""
        return [name, f"{self.metric:.4f}", f"{self.sqnr_db:.1f}", f"{self.agreement:.3f}", note]


def score(case: Any, model: str | Path, reference: np.ndarray | None) -> tuple[Score, np.ndarray]:
    """Run the evaluation samples; without a reference the outputs are their own."""
    batches = case.eval_batches(50, LIMITS.get(case.name))
    found_outputs = run(
        model, list(batches), runtime=Runtime(threads=THREADS), integers=kernels_are_exact()
    )
    outputs = [list(o.values()) for o in found_outputs]
    first = np.concatenate([o[0] for o in outputs])
    if reference is None:
        reference = first
    found = Score(case.metric(outputs), sqnr_db(reference, first), agreement(reference, first))
    return found, first


def methods() -> dict[str, Callable[[Any, Path], Path]]:
    """Return every way of quantizing a case: name -> function of case and folder."""

    def ours(case: Any, folder: Path, **options: Any) -> Path:
        return _ours.quantize(case.model_path, case.calib(), folder, threads=THREADS, **options)

    def rival(case: Any, folder: Path, method: str) -> Path:
        folder.mkdir()
        out = folder / "model.onnx"
        _rivals.quantize(case.model_path, list(split(case.calib(), 1)), out, method)
        return out

    found: dict[str, Callable[[Any, Path], Path]] = {"**calibrant default**": ours}
    for target in ("onnxruntime", "layers-only"):
        found[f"calibrant target {target}"] = partial(ours, target=target)
    for name in _ours.activation_algorithms():
        found[f"calibrant {name}"] = partial(ours, activation=name)
    for name in _rivals.METHODS:
        found[f"ONNX Runtime {name}"] = partial(rival, method=name)
    return found


def case_table(name: str) -> str:
    """Quantize one case in every way; return its section."""
    case = load_case(name)
    exact, reference = score(case, case.model_path, None)
    rows = [exact.row("float")]
    for method, quantize in methods().items():
        say(f"{name}: {method}")
        with tempfile.TemporaryDirectory() as folder:
            found, _ = score(case, quantize(case, Path(folder) / "out"), reference)
        rows.append(found.row(method))
    for rival, values in PUBLISHED.get(name, {}).items():
        rows.append(Score(*values).row(rival, "measured before"))
    samples = LIMITS.get(name, case.eval_size)
    best = f" Best rival: {BEST_RIVAL_DB[name]} dB." if name in BEST_RIVAL_DB else ""
    return f"## {name}\n\n{samples} samples, {case.metric_name}.{best}\n\n" + table(
        ["method", case.metric_name, "SQNR dB", "same top-1", ""], rows
    )


def main() -> None:
    """Measure and publish."""
    arguments = parser(__doc__).parse_args()
    sections = [case_table(name) for name in case_names(arguments.cases)]
    publish("accuracy", "Accuracy after int8 quantization", "\n\n".join([NOTE, *sections]))


if __name__ == "__main__":
    main()
