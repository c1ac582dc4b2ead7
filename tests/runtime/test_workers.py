"""The same statistics and the same model for any number of workers; a worker that is lost costs its piece alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calibrant
from calibrant.demo import digits
from calibrant.errors import ConfigRuntimeError, ConfigValueError, DataError
from calibrant.runtime.workers import Processes, RayCluster, workers_of
from tests.models import convolution, linear

DATA = {"image": digits.calibration().image}


@pytest.mark.parametrize("jobs", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_statistics_are_those_of_one_process_bit_for_bit(jobs: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", image=DATA["image"])
    alone = calibrant.observe(digits.MODEL, tmp_path / "calib.npz")
    assert calibrant.observe(digits.MODEL, tmp_path / "calib.npz", jobs=jobs) == alone


@pytest.mark.slow
def test_models_are_the_same(tmp_path: Path) -> None:
    alone = calibrant.quantize(digits.MODEL, DATA, latency=False)
    divided = calibrant.quantize(digits.MODEL, DATA, latency=False, jobs=2)
    assert divided.to_bytes() == alone.to_bytes()
    assert divided.summary["data"] == alone.summary["data"]


@pytest.mark.slow
def test_a_model_that_insists_on_its_batch_is_given_whole_batches() -> None:
    model, feeds = linear.fixed_batch()
    size = next(iter(feeds(batch=1, seed=0).values())).shape[0]
    many = {
        n: np.concatenate([feeds(batch=1, seed=s)[n] for s in range(7)])
        for n in feeds(batch=1, seed=0)
    }
    assert size >= 1
    alone = calibrant.observe(model, many)
    assert calibrant.observe(model, many, jobs=3) == alone


def test_streams_cannot_be_divided_and_say_so() -> None:
    model, feeds = convolution.conv_bn_relu()
    stream = [feeds(batch=4, seed=s) for s in range(4)]
    with pytest.raises(DataError, match="cannot be divided among workers"):
        calibrant.observe(model, stream, jobs=2)


def lost_once(path: str) -> str:
    """End the process at once, the first time."""
    marker = Path(path)
    if marker.suffix == ".bad" and not marker.exists():
        marker.write_text("lost")
        os._exit(1)
    return marker.name


def lost_always(path: str) -> str:
    os._exit(1)


def test_a_piece_whose_worker_is_lost_is_done_again(tmp_path: Path) -> None:
    pieces = [str(tmp_path / n) for n in ("a.ok", "b.bad", "c.ok")]
    assert list(Processes(2).map(lost_once, pieces)) == ["a.ok", "b.bad", "c.ok"]


def test_workers_that_are_lost_again_and_again_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigRuntimeError, match="too little memory"):
        list(Processes(2).map(lost_always, [str(tmp_path)]))


def test_one_way_of_dividing_is_asked_for() -> None:
    with pytest.raises(ConfigValueError, match="jobs and ray"):
        workers_of(2, "local")
    with pytest.raises(ConfigValueError, match="jobs is 0"):
        workers_of(0, None)
    assert workers_of(1, None) is None
    assert workers_of(None, None) is None


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'calibrant[ray]'")
    yield RayCluster("local:2")
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_sees_the_same(cluster: RayCluster, tmp_path: Path) -> None:
    assert cluster.count == 2
    np.savez(tmp_path / "calib.npz", image=DATA["image"])
    alone = calibrant.observe(digits.MODEL, tmp_path / "calib.npz")
    assert calibrant.observe(digits.MODEL, tmp_path / "calib.npz", ray="local:2") == alone


@pytest.mark.filterwarnings("ignore")
def test_errors_of_ray_workers_are_those_of_this_process(cluster: RayCluster) -> None:
    bad = {"image": DATA["image"].copy()}
    bad["image"][90] = np.nan
    with pytest.raises(DataError, match="holds NaN"):
        calibrant.observe(digits.MODEL, bad, ray="local:2")


HELD = """
import os, time
from calibrant.runtime.workers import Processes
from tests.runtime.test_workers import own_pid
if __name__ == "__main__":
    workers = Processes(1)
    print(next(iter(workers.map(own_pid, [0]))), flush=True)
    time.sleep(60)
"""


def own_pid(_: int) -> int:
    return os.getpid()


@pytest.mark.slow
def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    """Killed, a process tells nobody; its workers end by themselves."""
    script = tmp_path / "held.py"
    script.write_text(HELD)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    """Whether a process is there, and more than what is left of one that ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
