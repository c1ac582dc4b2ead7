"""Quantize a network in Python, look at what was decided, and measure the result.

    python quantize_digits.py

Writes the folder `run/` in the current directory.
"""

from __future__ import annotations

import calibrant
from calibrant.demo import digits


def main() -> None:
    """Quantize the digits network with the default recipe."""
    calibration = digits.calibration()  # 96 images; the labels are not needed
    result = calibrant.quantize(digits.MODEL, {"image": calibration.image})

    print("Measured while deciding:")
    for tried in result.summary["decisions"]:
        mark = "*" if tried["chosen"] else " "
        print(f"  {mark} {tried['stage']:<16} {tried['name']:<20} {tried['score']:6.1f} dB")

    output = result.summary["quality"]["outputs"]["logits"]
    print(f"Output: SQNR {output['sqnr_db']:.1f} dB, cosine {output['cosine']:.5f}")
    for warning in result.summary["warnings"]:
        print("Warning:", warning)

    files = result.save("run")
    print("Written:", ", ".join(f.name for f in files))

    test = digits.evaluation()
    data = {"image": test.image, "labels": test.labels}
    for name, model in (("float", digits.MODEL), ("int8", "run/deploy.onnx")):
        measured = calibrant.evaluate(model, data, "top1")
        print(f"{name:<6} top1 {measured.value:.4f} on {measured.samples} samples")


if __name__ == "__main__":
    main()
