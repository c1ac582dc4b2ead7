"""Quantize with a recipe file, and read in the plan which rule decided what.

python recipe_file.py
"""

from __future__ import annotations

from pathlib import Path

import calibrant
from calibrant.demo import digits

RECIPE = Path(__file__).parent / "recipe.yaml"


def main() -> None:
    """Print each layer with its settings and the rule behind them."""
    recipe = calibrant.load_recipe(RECIPE)
    result = calibrant.quantize(digits.MODEL, {"image": digits.calibration().image}, recipe)
    for layer in result.plan.layers:
        if not layer.quantized:
            print(f"{layer.node:<10} float: {layer.reason}")
            continue
        s = layer.settings
        rule = layer.origin.get("activation_bits") or layer.origin["activation"]
        print(f"{layer.node:<10} {s.activation_bits:>2} bit, {s.activation!s:<28} by {rule}")
    output = result.summary["quality"]["outputs"]["logits"]
    print(f"Output: SQNR {output['sqnr_db']:.1f} dB; opset {result.summary['opset']['after']}")

    strict = {"calibrant": 1, "rules": [{"where": {"layer": "pw5_conv"}, "precision": "float32"}]}
    try:
        calibrant.quantize(
            digits.MODEL, {"image": digits.calibration().image}, calibrant.load_recipe(strict)
        )
    except calibrant.CalibrantError as error:
        print("A name that does not exist:", error)


if __name__ == "__main__":
    main()
