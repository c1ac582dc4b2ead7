"""A module of torch as input: exported, named after the user's modules, trained, and deployed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn

from calibrant.errors import ConfigValueError, ModelError
from calibrant.qat import prepare
from calibrant.qat.modules import exported

#: The exporter speaks of parts of torch and of Python that are none of ours.
pytestmark = pytest.mark.filterwarnings("ignore")


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
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


@pytest.mark.slow
def test_a_module_that_cannot_be_exported_is_named():
    with pytest.raises(ModelError, match="torch cannot export the module Choosing"):
        exported(Choosing(), torch.randn(2, 3))


def test_a_module_needs_an_example_of_tensors():
    with pytest.raises(ConfigValueError, match="needs an example"):
        prepare(Net(), {"image": np.zeros((4, 1, 12, 12), np.float32)})
    with pytest.raises(ConfigValueError, match="The example is list"):
        exported(Net(), {"image": [1, 2]})
