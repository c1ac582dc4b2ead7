"""Measure a float and a quantized model with a metric of your own.

    python custom_metric.py

A metric gets the list of all outputs, each (samples, …), and the references by name, and returns a number. On the
command line, from this folder:

    calibrant evaluate run/deploy.onnx --data eval.npz --metric custom_metric:worst_class
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import calibrant
from calibrant.demo import digits

Arrays = Sequence[np.ndarray]


def worst_class(outputs: Arrays, references: Mapping[str, np.ndarray]) -> float:
    """Return the accuracy on the class that is read worst: an average may hide that one is lost."""
    read = outputs[0].argmax(axis=1)
    labels = references["labels"]
    return float(min((read[labels == c] == c).mean() for c in np.unique(labels)))


def margin(outputs: Arrays, references: Mapping[str, np.ndarray]) -> float:
    """Return the mean distance from the right class's score to the best other one."""
    scores, rows = outputs[0], np.arange(len(outputs[0]))
    own = scores[rows, references["labels"]]
    others = scores.copy()
    others[rows, references["labels"]] = -np.inf
    return float((own - others.max(axis=1)).mean())


def main() -> None:
    """Print both metrics for both models."""
    test = digits.evaluation()
    data = {"image": test.image, "labels": test.labels}
    result = calibrant.quantize(digits.MODEL, {"image": digits.calibration().image})
    for name, model in (("float", digits.MODEL), ("int8", result.deploy)):
        found = [calibrant.evaluate(model, data, metric) for metric in (worst_class, margin)]
        print(f"{name:<6}" + "".join(f"{e.metric} {e.value:.4f}   " for e in found))


if __name__ == "__main__":
    main()
