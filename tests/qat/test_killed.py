"""`calibrant train`, killed as an operating system kills a process, goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training needs torch")

import onnx

from calibrant.cli import main
from calibrant.demo.digits import MODEL, evaluation
from calibrant.qat.checkpoint import load_checkpoint
from tests.models import NETS
from tests.qat.quick import RECIPE

#: The command, with a checkpoint behind every step.
COMMAND = """
import sys
from calibrant.cli import main
import calibrant.qat.loop
calibrant.qat.loop.CHECKPOINT_SECONDS = 0.0
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Return the arguments of a run, but for its folder."""
    folder = tmp_path_factory.mktemp("run")
    held = evaluation()
    np.savez(folder / "train.npz", image=held.image[:200])
    recipe = {**RECIPE, "rules": [{"where": "all", "activation": "mse", "weight": {"bits": 4}}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    found = ["train", str(MODEL), "--data", str(folder / "train.npz"), "--epochs", "4"]
    found += ["--recipe", str(folder / "recipe.yaml"), "--batch-size", "20", "--threads", "1"]
    return [*found, "--calibration-samples", "32", "--lr", "0.002", "--json"]


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """Return the folder of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*asked, "--out", str(folder)]) in (0, 8)
    return folder


def begun(asked, folder, *further):
    """Begin a run in a process of its own."""
    run = [sys.executable, "-c", COMMAND, *asked, "--out", str(folder), *further]
    return subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def check_same(folder, whole):
    """Check that a run came to what another one did: losses, looks, scores and files, bit for bit."""
    (first, meta), (other, wanted) = (
        load_checkpoint(f / "checkpoint.npz") for f in (folder, whole)
    )
    assert meta["state"]["losses"] == wanted["state"]["losses"]
    assert first.keys() == other.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    looks, wanted_looks = (
        [json.loads(x) for x in (f / "training.jsonl").read_text("utf-8").splitlines()]
        for f in (folder, whole)
    )
    assert [(x["step"], x["loss"], x["score"]) for x in looks] == [
        (x["step"], x["loss"], x["score"]) for x in wanted_looks
    ]
    said, told = (
        json.loads((f / "summary.json").read_text("utf-8"))["training"] for f in (folder, whole)
    )
    assert said["scores"] == told["scores"]
    for name in ("deploy.onnx", "trained.onnx"):
        assert (folder / name).exists() == (whole / name).exists()
        if (whole / name).exists():
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_trains_comes_to_the_same(asked, whole, tmp_path):
    process = begun(asked, tmp_path)
    journal = tmp_path / "training.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.005)
    kill(process)
    _, meta = load_checkpoint(tmp_path / "checkpoint.npz")
    assert 0 < meta["state"]["step"] < 40
    assert main([*asked, "--out", str(tmp_path), "--resume"]) in (0, 8)
    check_same(tmp_path, whole)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_the_same(asked, whole, tmp_path):
    rng, kills = random.Random(0), 0
    process = begun(asked, tmp_path)
    for _ in range(5):
        while process.poll() is None and not tmp_path.joinpath("checkpoint.npz").exists():
            time.sleep(0.01)  # Python and torch load before the run begins
        try:
            process.wait(rng.uniform(0.0, 12.0 if kills else 1.0))  # the first one in any case
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            process = begun(asked, tmp_path, "--resume")
    _, errors = process.communicate()
    assert process.returncode in (0, 8), errors.decode()
    assert kills
    check_same(tmp_path, whole)


@pytest.mark.slow
def test_a_run_that_is_killed_before_it_trains_begins_at_its_start(asked, whole, tmp_path):
    (tmp_path / "checkpoint.npz").write_bytes(b"of an earlier run")
    process = begun(asked, tmp_path)
    while process.poll() is None and (tmp_path / "checkpoint.npz").exists():
        time.sleep(0.005)
    kill(process)
    assert main([*asked, "--out", str(tmp_path), "--resume"]) in (0, 8)
    check_same(tmp_path, whole)
    said = json.loads((tmp_path / "summary.json").read_text("utf-8"))["training"]
    assert "no state to go on with" in said["notes"][0]


#: The command, with a checkpoint behind every step; it is killed behind its seventh step, before that step is on disk.
KILLED = """
import os, signal, sys
from calibrant.cli import main
from calibrant.qat import loop
loop.CHECKPOINT_SECONDS = 0.0
step = loop.Loop._step
def killed(self, *args):
    taken = step(self, *args)
    if self.state.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return taken
loop.Loop._step = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_small_run_that_is_killed_within_an_epoch_comes_to_the_same(tmp_path):
    model, feeds = NETS["conv_bn_relu"]()
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "train.npz", x=feeds(batch=50, seed=1)["x"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    asked = ["train", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "train.npz")]
    asked += ["--recipe", str(tmp_path / "recipe.yaml"), "--epochs", "2", "--batch-size", "9"]
    asked += ["--calibration-samples", "16", "--lr", "0.01", "--threads", "1", "--json"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert main([*asked, "--out", str(whole)]) in (0, 8)
    run = [sys.executable, "-c", KILLED, *asked, "--out", str(folder)]
    assert subprocess.run(run, capture_output=True, check=False).returncode == -signal.SIGKILL
    _, meta = load_checkpoint(folder / "checkpoint.npz")
    assert meta["state"]["step"] == 6  # of 5 in an epoch
    assert main([*asked, "--out", str(folder), "--resume"]) in (0, 8)
    check_same(folder, whole)
