"""A network that is prepared in two seconds, for tests of what stands around it."""

from __future__ import annotations

import numpy as np

from tests.models import NETS

#: Nothing is searched for.
RECIPE = {
    "calibrant": 1,
    "bias_correction": "off",
    "equalize": "off",
    "rules": [{"where": "all", "activation": "mse", "weight": "arq"}],
}


def network():
    """Return a model, its feeds, and a network of it that trains: convolutions and a classifier."""
    from calibrant.qat import prepare

    model, feeds = NETS["conv_bn_relu"]()
    return model, feeds, prepare(model, feeds(batch=16, seed=0), RECIPE)


def batches(count: int, size: int):
    """Return batches of inputs, as arrays."""
    _, feeds = NETS["conv_bn_relu"]()
    return [np.asarray(feeds(batch=size, seed=10 + i)["x"]) for i in range(count)]
