"""Losses of layers from gradients: beside partial runs on small networks, exact where the network is linear, and in `tune`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import calibrant
from calibrant.cli import main
from calibrant.demo import digits
from calibrant.errors import ConfigValueError, UnsupportedError
from tests.models import NETS

torch = pytest.importorskip("torch")

from calibrant.graph.load import load
from calibrant.qat import gradients
from calibrant.qat.gradients import energies
from calibrant.qat.graph import to_torch

DATA = {"image": digits.calibration().image[:32]}


def losses(ranking: Any) -> dict[tuple[str, str], float]:
    return {(r.name, r.precision): r.loss for r in ranking.layers}


@pytest.mark.slow
def test_they_say_what_partial_runs_measure() -> None:
    precisions = ("int8", "int4", "float16")
    runs = losses(calibrant.sensitivity(digits.MODEL, DATA, precision=precisions, budget=None))
    found = calibrant.qat.gradient_sensitivity(digits.MODEL, DATA, precision=precisions)
    mine = losses(found)
    assert set(mine) == set(runs)
    for precision in precisions:
        keys = [k for k in runs if k[1] == precision]
        pairs = np.array([(runs[k], mine[k]) for k in keys])
        assert spearmanr(*pairs.T)[0] > 0.85
        assert 0.5 < np.median(pairs[:, 1] / pairs[:, 0]) < 2
    assert found.metric == "sqnr_db"
    assert any("estimates from gradients" in n for n in found.notes)
    assert found.work["passes"] < 20


def test_of_a_last_layer_they_are_exact_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer's answers are the outputs, so its loss is that of the answers themselves."""
    model, feeds = NETS["conv_bn_relu"]()
    data = {"x": np.asarray(feeds(batch=64, seed=0)["x"])}
    runs = calibrant.sensitivity(model, data, precision="int8", samples=64, budget=None)
    exact = losses(runs)
    last = [r.name for r in runs.layers if r.op_type == "Gemm"]
    assert len(last) == 1
    key = last[0], "int8"
    each: list[Any] = []

    def over_seeds(*args: Any, **options: Any) -> Any:
        found = [energies(*args, **options, seed=seed) for seed in range(6)]
        each.extend(e.lost["int8"][last[0]] for e in found)
        return replace(found[0], lost={"int8": {last[0]: np.mean(each, axis=0)}})

    monkeypatch.setattr(gradients, "energies", over_seeds)
    mine = calibrant.qat.gradient_sensitivity(
        model, data, precision="int8", samples=64, layers=last
    )
    assert losses(mine)[key] == pytest.approx(exact[key], rel=0.2)
    assert np.std(each) > 0  # of random signs


def test_a_node_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run, in a layer that runs again, and where gradients go back."""
    model, feeds = NETS["conv_bn_relu"]()
    graph = to_torch(load(model)).eval()
    graph.requires_grad_(False)
    x = torch.from_numpy(np.asarray(feeds(batch=2, seed=0)["x"]))
    layers = frozenset(
        n.meta["node"] for n in graph.graph.nodes if "Conv" in n.meta.get("onnx", "")
    )
    run = gradients._Recorder(graph, layers)
    with pytest.raises(UnsupportedError, match=r"node '.*' \(Conv\)"):
        run.answers(x[:, :2])
    run = gradients._Recorder(graph, layers)
    output = run.answers(x)[0]
    layer = min(layers)
    with pytest.raises(UnsupportedError, match=rf"node '{layer}' \(Conv\)"):
        run.again(layer, {0: np.zeros((2, 1, 4, 4), np.float32)})
    with pytest.raises(UnsupportedError, match="its gradients"):
        run.gradients(output, np.ones((1, 1), np.float32))


def test_two_calls_say_the_same() -> None:
    model, feeds = NETS["conv_bn_relu"]()
    data = {"x": np.asarray(feeds(batch=16, seed=0)["x"])}
    one, other = (calibrant.qat.gradient_sensitivity(model, data) for _ in range(2))
    assert losses(one) == losses(other)


@pytest.mark.slow
def test_the_command_ranks_by_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "calib.npz"
    np.savez(data, image=DATA["image"])
    call = ["sensitivity", str(digits.MODEL), "--data", str(data), "--by", "gradient", "--json"]
    assert main([*call, "--layer", "logits", "--layer", "stem_conv"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {r["name"] for r in found["layers"]} == {"logits", "stem_conv"}
    assert main([*call, "--mode", "all-but"]) == 5
    assert "ranks layers alone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_by_them_meets_the_requirement(tmp_path: Path) -> None:
    def tuned(**options: Any) -> calibrant.TuningResult:
        how: dict[str, Any] = {"moves": "none", "allow": "int4,int8,float16,float32"}
        return calibrant.tune(
            digits.MODEL, DATA, (DATA, "sqnr_db"), "min 25", out=tmp_path, **how, **options
        )

    found = tuned(sensitivity_by="gradient")
    assert found.met
    assert set(found.errors) == {"int4", "int8", "float16"}
    again = tuned(sensitivity_by="gradient")
    assert again.reused > found.reused
    assert again.errors == found.errors
    runs = tuned()
    assert found.cost <= 1.1 * runs.cost
    assert runs.errors != found.errors  # the journal keeps them apart


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sensitivity_by": "gradients"}, "runs or gradient"),
        ({"sensitivity_by": "gradient", "strategy": "horizon"}, "belongs to 'auto'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigValueError, match=said):
        calibrant.tune(digits.MODEL, DATA, **options)
