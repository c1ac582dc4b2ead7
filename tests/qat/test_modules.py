"""A module of torch as input: exported, named after the user's modules, trained, and deployed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn

import calibrant
from calibrant.cli import main
from calibrant.errors import ConfigValueError, MissingPackageError, ModelError
from calibrant.graph.load import load
from calibrant.graph.load import prepare as prepare_graph
from calibrant.graph.modules import exported
from calibrant.graph.passes.fuse_batchnorm import fuse_batchnorm
from calibrant.qat import prepare
from calibrant.runtime.measure import run

#: The exporter speaks of parts of torch and of Python that are none of ours.
pytestmark = pytest.mark.filterwarnings("ignore")


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.conv2(y) + y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block(1)
        self.second = Block(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, image):
        return self.fc(self.drop(self.second(self.first(image)).mean((2, 3))))


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Borrowing(nn.Module):
    def forward(self, x):
        return importlib.import_module("package_that_nobody_has").double(x)


def test_a_package_that_the_module_needs_is_told_as_its_own(monkeypatch):
    with pytest.raises(ModelError, match="No module named 'package_that_nobody_has'") as e:
        exported(Borrowing(), torch.ones(2, 3))
    assert "calibrant[torch]" not in str(e.value)

    def without(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", without)
    with pytest.raises(MissingPackageError, match="onnxscript"):
        exported(nn.ReLU(), torch.ones(2, 3))


@pytest.mark.slow
def test_a_module_trains_under_its_own_names_and_stays_as_it_was():
    torch.manual_seed(0)
    net = Net().train()
    images = torch.randn(24, 1, 12, 12)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    qat = prepare(net, {"image": images.numpy()}, example=images[:2])
    names = [w.layer for w in qat.solution.plan.weights]
    assert names == ["first.conv1", "first.conv2", "second.conv1", "second.conv2", "fc"]
    with torch.no_grad():
        wanted = net.eval()(images).numpy()
        found = qat.teacher(images).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    optimizer = torch.optim.AdamW(qat.parameter_groups(1e-3))
    qat.module(images).square().mean().backward()
    optimizer.step()
    assert qat.convert().summary["training"]["agreement"]["sqnr_db"] > 40
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.tail = nn.Sequential(nn.ReLU(), Choosing())

    def forward(self, x):
        return self.tail(self.fc(x))


class Odd(nn.Module):
    def __init__(self, norm: nn.Module, p: float) -> None:
        super().__init__()
        self.conv, self.norm, self.p = nn.Conv2d(1, 4, 3), norm, p

    def forward(self, x):
        return nn.functional.dropout(self.norm(self.conv(x)), self.p, training=True)


class Words(nn.Module):
    """Layers of other kinds: a sequence, a parameter of its own, a transposed convolution, no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Linear(10, 6)
        self.after = nn.LayerNorm(6)
        self.last = nn.Parameter(torch.randn(6, 3))

    def forward(self, image):
        y = torch.relu(self.norm(self.up(image)))  # (N, 4, 14, 14)
        return self.after(self.mix(y.mean(2)[..., :10])) @ self.last


RECIPE = {
    "calibrant": 1,
    "bias_correction": "off",
    "equalize": "off",
    "rules": [{"where": "all", "activation": "mse", "weight": "arq"}],
}


def with_statistics(net: nn.Module, images) -> nn.Module:
    """Let batch normalizations see images, so that they do something."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(images * 2 + 1)
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("make", [Net, Words])
def test_trained_weights_go_back_under_the_names_of_the_module(make):
    torch.manual_seed(0)
    images = torch.randn(24, 1, 12, 12)
    net = with_statistics(make(), images)
    qat = prepare(net, {"image": images.numpy()}, RECIPE)  # the example comes from the data
    optimizer = torch.optim.AdamW(qat.parameter_groups(1e-2))
    for _ in range(3):
        loss = (qat.module(images) - 1.5 * qat.teacher(images)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before = net(images)
    keys = set(net.state_dict())
    result = qat.convert(into=net)
    assert set(net.state_dict()) == keys
    with torch.no_grad():
        found = net(images)
    wanted = run(result.float_model, [{"image": images.numpy()}])[0]
    np.testing.assert_allclose(found.numpy(), next(iter(wanted.values())), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)

    other = make()
    held = {k: v.clone() for k, v in other.state_dict().items()}
    first = next(other.parameters())
    with torch.no_grad():
        first.data = torch.zeros((*first.shape[:-1], first.shape[-1] + 1))
    with pytest.raises(ConfigValueError, match="another module"):
        qat.convert(into=other)
    assert all(
        torch.equal(v, held[k]) for k, v in other.state_dict().items() if v.shape == held[k].shape
    )


@pytest.mark.slow
def test_a_module_is_taken_wherever_a_float_model_is(tmp_path):
    torch.manual_seed(0)
    net, images = Net(), torch.randn(24, 1, 12, 12)
    data = {"image": images.numpy()}
    result = calibrant.quantize(net, data, RECIPE, example=images[:2], latency=False)
    names = {"first.conv1", "first.conv2", "second.conv1", "second.conv2", "fc"}
    assert {w.layer for w in result.plan.weights} == names
    assert names <= {r.name for r in calibrant.compare(net, result.deploy, data).layers}
    assert {r.name for r in calibrant.sensitivity(net, data).layers} == names
    tuned = calibrant.tune(net, data, None, "max-drop 50%", max_trials=2, recipe=RECIPE)
    assert {w.layer for w in tuned.result.plan.weights} <= names
    assert net.training


MAKERS = """
import torch
from tests.qat.test_modules import Net

def both():
    torch.manual_seed(0)
    return Net(), torch.randn(2, 1, 12, 12)

def alone():
    torch.manual_seed(0)
    return Net()

def none():
    return 3

def fails():
    raise RuntimeError("no network today")
"""


@pytest.mark.slow
def test_a_command_is_given_a_function_that_makes_a_module(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("makers.py").write_text(MAKERS, encoding="utf-8")
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    images = np.random.default_rng(0).normal(size=(48, 1, 12, 12)).astype(np.float32)
    np.savez("calib.npz", image=images)
    common = ["--data", "calib.npz", "--recipe", "recipe.yaml"]
    assert main(["quantize", "makers:both", *common, "--out", "run", "--quiet"]) == 0
    plan = json.loads(Path("run/plan.json").read_text(encoding="utf-8"))
    assert '"first.conv1"' in json.dumps(plan)
    assert main(["compare", "makers:alone", "run/deploy.onnx", "--data", "calib.npz"]) == 0
    assert "second.conv2" in capsys.readouterr().out
    assert main(
        ["train", "makers:alone", *common, "--out", "trained", "--epochs", "1", "--lr", "1e-4"]
    ) in (0, 8)
    assert Path("trained/deploy.onnx").is_file()
    for name, said in (
        ("none", "is a int"),
        ("fails", "no network today"),
        ("other", "has no 'other'"),
    ):
        assert main(["quantize", f"makers:{name}", *common, "--out", "x"]) == 3
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_convolution_without_a_bias_has_none_and_its_normalization_is_folded():
    model = exported(Block(1), torch.randn(2, 1, 8, 8))
    layers = {n.name: len(n.inputs) for n in model.graph if n.op_type == "Conv"}
    assert layers == {"conv1": 2, "conv2": 3}
    prepared = prepare_graph(model)
    fuse_batchnorm(prepared)
    assert [n.op_type for n in prepared.graph] == ["Conv", "Relu", "Conv", "Add"]


@pytest.mark.slow
def test_what_cannot_be_deployed_is_refused_with_its_name():
    with pytest.raises(ModelError, match=r"Gated, in 'tail\.1' \(Choosing\)"):
        exported(Gated(), torch.randn(2, 3))
    with pytest.raises(ModelError, match=r"module Choosing: Could not"):
        exported(Choosing(), torch.randn(2, 3))
    image = torch.randn(2, 1, 8, 8)
    with pytest.raises(ModelError, match="'norm' normalizes by the batch"):
        exported(Odd(nn.BatchNorm2d(4, track_running_stats=False), 0.0), image)
    with pytest.raises(ModelError, match="drops values in evaluation"):
        exported(Odd(nn.BatchNorm2d(4), 0.5), image)


def test_a_module_needs_an_example_of_tensors():
    with pytest.raises(ConfigValueError, match=r"needs an example.*\(image\)"):
        prepare(Net(), {"picture": np.zeros((4, 1, 12, 12), np.float32)})
    with pytest.raises(ConfigValueError, match="The example is list"):
        exported(Net(), {"image": [1, 2]})
    with pytest.raises(ModelError, match="module of torch"):
        load(Net())
