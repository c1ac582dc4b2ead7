"""Training in tests has one thread: several would wait for each other on machines that are busy with other tests."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is not None:
    import torch

    torch.set_num_threads(1)
