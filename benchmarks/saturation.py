"""What sums beyond 16 bits cost on this CPU, with weights that are fitted to it and with weights that are not.

    python benchmarks/saturation.py [CASE …]

Each case is quantized for `onnxruntime` and `generic`, and for the same targets with `narrow_sums: ignore`. Quality is that of the
outputs on samples of `eval.npz`: by exact kernels, and by the ones that ONNX Runtime takes here by itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from _common import case_names, load_case, parser, publish, say, sqnr_db, table

import calibrant
from calibrant.runtime.measure import run

SAMPLES = 400
TARGET = "calibrant_target: 1\nname: {like}-ignore\ndescription: As {like}.\nlike: {like}\nnarrow_sums: ignore\n"


def main() -> None:
    """Measure and publish."""
    names = parser(__doc__).parse_args().cases
    rows = [r for n in case_names(names or ["kws-dscnn", "resnet20-cifar10"]) for r in _case(n)]
    columns = ("case", "target", "narrow_sums", "layers fitted", "SQNR exact, dB", "SQNR here, dB")
    publish(
        "saturation",
        "Sums beyond 16 bits",
        "CPUs without VNNI add two products in 16 bits and cut off what is larger; on others both figures are the same.\n\n"
        + table(columns, rows),
    )


def _case(name: str) -> list[list[object]]:
    case = load_case(name)
    batches = list(case.eval_batches(50, limit=SAMPLES))
    truth = _answers(case.model_path, batches, integers=False)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for like, how in (("onnxruntime", "fit"), ("generic", "try")):
            own = Path(folder) / f"{like}.yaml"
            own.write_text(TARGET.format(like=like), encoding="utf-8")
            for target, said in ((str(own), "ignore"), (like, how)):
                say(f"{name}: {like}, {said}")
                result = calibrant.quantize(case.model_path, case.calib(), target=target)
                found = [
                    f"{sqnr_db(truth, _answers(result.deploy, batches, integers=i)):.1f}"
                    for i in (False, True)
                ]
                fitted = len(result.summary["passes"]["narrow_sums"])
                rows.append([name, like, said, fitted, *found])
    return rows


def _answers(model: object, batches: list[dict[str, np.ndarray]], *, integers: bool) -> np.ndarray:
    """Return the first output; with `integers`, by the kernels that a plain session takes."""
    found = run(model, batches, integers=integers)  # type: ignore[arg-type]
    return np.concatenate([next(iter(f.values())) for f in found])


if __name__ == "__main__":
    main()
