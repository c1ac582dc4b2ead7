"""Workers that do one piece of work each: processes of this machine, or a Ray cluster.

What they do is a function of this package and plain values; what comes back is in the order of the pieces, so the result is the
same for any number of workers. A piece whose worker is lost is done again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from calibrant.errors import ConfigRuntimeError, ConfigValueError, MissingPackageError

__all__ = ["Processes", "RayCluster", "Workers", "workers_of"]

Piece = TypeVar("Piece")
Result = TypeVar("Result")

#: How often a piece is done again whose worker was lost.
RETRIES = 3


class Workers(Protocol):
    """Whoever does the work."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def threads(self) -> int:
        """How many threads a worker may use."""
        ...

    def map(
        self, function: Callable[..., Result], pieces: Sequence[Piece], shared: Any = None
    ) -> Iterator[Result]:
        """Yield what a function returns for each piece, in their order.

        Args:
            function: A function of a module, which workers import: (piece), or (shared, piece).
            pieces: Plain values.
            shared: What all pieces need; None where they need nothing more.

        Raises:
            ConfigRuntimeError: Workers were lost again and again.
        """
        ...


@dataclass(slots=True, eq=False)
class Processes:
    """Processes of this machine, started when the first work comes, and kept for what comes next.

    Args:
        count: How many.
    """

    count: int
    _pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    @property
    def threads(self) -> int:
        """A share of the processors of this machine."""
        return max(1, (os.cpu_count() or 1) // self.count)

    def map(
        self, function: Callable[..., Result], pieces: Sequence[Piece], shared: Any = None
    ) -> Iterator[Result]:
        """Yield what a function returns for each piece."""
        call = function if shared is None else partial(function, shared)
        done: dict[int, Result] = {}
        yielded = 0
        for _ in range(RETRIES + 1):
            futures = {}
            try:
                pool = self._opened()
                futures = {
                    i: pool.submit(call, piece) for i, piece in enumerate(pieces) if i not in done
                }
                for i, future in futures.items():
                    done[i] = future.result()
                    while yielded in done:
                        yield done[yielded]
                        yielded += 1
                return
            except BrokenProcessPool:
                # what others had finished by then is kept
                for i, future in futures.items():
                    if future.done() and not future.cancelled() and future.exception() is None:
                        done[i] = future.result()
                self.close()
            finally:
                for future in futures.values():
                    future.cancel()  # whoever asked wants no more
        raise ConfigRuntimeError(
            f"Worker processes ended {RETRIES + 1} times before their work was done; it may be that they had too little memory. "
            "Use fewer of them."
        )

    def close(self) -> None:
        """End the processes; further work starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # a fork would copy the threads of ONNX Runtime
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_end_with_parent,
            )
        return self._pool


def _end_with_parent() -> None:
    """Let this process end when the one that started it is gone: killed, it tells nobody, and workers would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _wait_and_end(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os._exit(1)


class RayCluster:
    """Workers of a Ray cluster, which have calibrant and see the same files.

    Args:
        address: Of the cluster, as `ray.init` takes it; `local` starts one on this machine, and `local:N` one of N workers.

    Raises:
        MissingPackageError: Ray is not installed.
        ConfigRuntimeError: There is no cluster at the address.
    """

    def __init__(self, address: str) -> None:
        """Connect."""
        try:
            import ray
        except ImportError as e:
            raise MissingPackageError(
                'A Ray cluster needs the package ray: pip install "calibrant[ray]".'
            ) from e
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray: Any = ray
        own, _, number = address.partition(":")
        if own == "local" and number and not (number.isdigit() and int(number) > 0):
            raise ConfigValueError(
                f"The Ray cluster is '{address}'; it is local, local:N, or an address."
            )
        if not ray.is_initialized():
            options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
            if own != "local":
                options = {"address": address, "log_to_driver": False}
            elif number:
                options["num_cpus"] = int(number)
            try:
                ray.init(**options)
            except (ConnectionError, ValueError, RuntimeError) as e:
                raise ConfigRuntimeError(
                    f"There is no Ray cluster at '{address}': {' '.join(str(e).split())[:200]}"
                ) from e
        self.count = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def threads(self) -> int:
        """One: a task takes one processor of the cluster."""
        return 1

    def map(
        self, function: Callable[..., Result], pieces: Sequence[Piece], shared: Any = None
    ) -> Iterator[Result]:
        """Yield what a function returns for each piece."""
        task = self._ray.remote(max_retries=RETRIES)(function)
        common = () if shared is None else (self._ray.put(shared),)  # sent to each machine once
        waiting = [task.remote(*common, piece) for piece in pieces]
        try:
            while waiting:
                try:
                    found = self._ray.get(waiting[0])
                except self._ray.exceptions.RayTaskError as e:
                    raise e.cause if e.cause is not None else e from None
                except self._ray.exceptions.RayError as e:
                    raise ConfigRuntimeError(
                        f"Workers of the Ray cluster were lost before their work was done: {' '.join(str(e).split())[:200]}"
                    ) from e
                waiting.pop(0)
                yield found
        finally:
            for future in waiting:  # whoever asked wants no more
                self._ray.cancel(future)


def workers_of(jobs: int | None, ray: str | None) -> Workers | None:
    """Return who does the work that can be divided; None for this process alone.

    Args:
        jobs: Processes of this machine.
        ray: Address of a Ray cluster, or `local`.

    Raises:
        ConfigValueError: Both are given, or jobs is below 1.
    """
    if jobs is not None and ray is not None:
        raise ConfigValueError(
            "jobs and ray are given; the work is done by processes or by a Ray cluster."
        )
    if ray is not None:
        return RayCluster(ray)
    if jobs is not None and jobs < 1:
        raise ConfigValueError(f"jobs is {jobs}; it is 1 or more.")
    return Processes(jobs) if jobs is not None and jobs > 1 else None
