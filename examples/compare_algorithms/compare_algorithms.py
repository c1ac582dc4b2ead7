"""Compare every activation algorithm on every tensor, from one pass over the data.

    python compare_algorithms.py

Statistics hold all that the algorithms ask for, so trying ten of them runs the model no more often than one.
"""

from __future__ import annotations

import numpy as np

import calibrant
from calibrant.demo import digits
from calibrant.numerics import fake_quantize


def sqnr_db(stats: calibrant.TensorStats, params: calibrant.QuantParams) -> float:
    """Return how far the values of a tensor stand above their quantization error [dB]."""
    values, counts = stats.points()  # (points,) bin middles or distinct values, and how often
    error = values - fake_quantize(values, params)
    return float(10 * np.log10((counts * values**2).sum() / (counts * error**2).sum()))


def main() -> None:
    """Print one row a tensor, one column an algorithm."""
    statistics = calibrant.observe(digits.MODEL, {"image": digits.calibration().image})
    spec = calibrant.QuantSpec(bits=8, symmetric=False)
    names = [n for n in calibrant.algorithms.names()["activation"] if n != "fixed"]
    print(f"{'tensor':<10} {'range seen':>16}  " + " ".join(f"{n:>10}" for n in names))
    for tensor, stats in statistics.items():
        cells = []
        for name in names:
            params = calibrant.algorithms.activation(name)(stats, spec)
            cells.append(f"{sqnr_db(stats, params):10.1f}")
        print(f"{tensor:<10} {f'{stats.min:.2f} … {stats.max:.2f}':>16}  " + " ".join(cells))


if __name__ == "__main__":
    main()
