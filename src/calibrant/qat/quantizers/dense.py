"""Tensors of torch as arrays that compiled loops run over, on as many threads as torch may take."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["dense", "flat", "in_parts", "like", "rows_of"]

#: Blocks of values that are worth a thread of their own.
WORTH = 8


def dense(x: Tensor) -> Tensor:
    """Return a tensor whose values lie one behind the other, in some order of its axes."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def like(g: Tensor, x: Tensor) -> Tensor:
    """Return the values of one tensor as those of another one lie in memory."""
    if g.stride() == x.stride() and g.dtype == x.dtype:
        return g
    return torch.empty_like(x).copy_(g)


def flat(x: Tensor) -> npt.NDArray[Any]:
    """Return the values of a dense tensor as they lie in memory, as a view."""
    found: npt.NDArray[Any] = x.as_strided((x.numel(),), (1,)).numpy()
    return found


def rows_of(x: Tensor, rows: int) -> npt.NDArray[Any]:
    """Return a dense tensor as (rows, values), as a view; its first axis is outermost."""
    found: npt.NDArray[Any] = x.as_strided(
        (rows, x.numel() // rows), (x.numel() // rows, 1)
    ).numpy()
    return found


def in_parts(work: Callable[[int, int], None], blocks: int) -> None:
    """Do the work of blocks, in parts of neighbours, on as many threads as torch may take.

    Args:
        work: Called with the first block of a part and the one behind its last.
        blocks: How many there are.
    """
    threads = min(torch.get_num_threads(), blocks // WORTH)
    if threads < 2:
        work(0, blocks)
        return
    edges = [int(e) for e in np.linspace(0, blocks, threads + 1)]
    others = [_pool(threads).submit(work, a, b) for a, b in pairwise(edges[1:])]
    work(edges[0], edges[1])
    for other in others:
        other.result()


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="calibrant-quantizers")
