"""A script for the vendor's toolkit, with the import changed."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn
from torch.nn import functional as F  # noqa: N812

from calibrant.compat import amct
from calibrant.errors import ConfigRuntimeError, ConfigTypeError

#: The exporter speaks of parts of torch and of Python that are none of ours.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return self.fc(F.relu(self.conv2(y)).mean((2, 3)))


def test_the_vendors_script_trains_and_saves(tmp_path):
    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 1, 8, 8)
    config, record = tmp_path / "config.json", tmp_path / "record.txt"
    amct.create_quant_retrain_config(str(config), net, x)
    content = json.loads(config.read_text(encoding="utf-8"))
    assert [k for k, v in content.items() if isinstance(v, dict)] == ["conv1", "conv2", "fc"]
    content["batch_num"] = 2
    content["fc"]["retrain_data_config"] |= {"clip_max": 2.0, "clip_min": -2.0}
    config.write_text(json.dumps(content), encoding="utf-8")

    model = amct.create_quant_retrain_model(str(config), net, str(record), x)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    first = model.qat.trained.activation(model.qat.solution.plan.activations[0].id)
    assert [s.left for s in model.starts] == [2, 2]  # fc has its clips
    for step in range(4):
        batch = torch.randn(16, 1, 8, 8)
        loss = F.cross_entropy(model(batch), torch.arange(16) % 4)
        if step < 1:  # with the second of two batches the range is that of IFMR
            assert first.last[0].item() == pytest.approx(batch.max().item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert not record.exists()
    model.eval()
    with torch.no_grad():
        wanted = model(x).numpy()
    assert {"conv1", "conv2", "fc"} <= {
        line.split('"')[1]
        for line in record.read_text(encoding="utf-8").splitlines()
        if "key:" in line
    }
    amct.save_quant_retrain_model(
        str(config), model, str(record), str(tmp_path / "out" / "net"), x
    )
    for name in ("net_fake_quant_model.onnx", "net_deploy_model.onnx"):
        session = ort.InferenceSession(tmp_path / "out" / name, providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())

    torch.save({"state": model.state_dict()}, tmp_path / "net.pth")
    again = amct.restore_quant_retrain_model(
        str(config), net, str(record), x, str(tmp_path / "net.pth"), "state"
    )
    record.unlink()
    with torch.no_grad():
        np.testing.assert_array_equal(again.eval()(x).numpy(), wanted)
    assert 'key: "conv1"' in record.read_text(encoding="utf-8")
    wrapped = {
        f"module.{k}": v for k, v in model.state_dict().items()
    }  # as data parallel saves it
    torch.save(wrapped, tmp_path / "net.pth")
    again = amct.restore_quant_retrain_model(
        str(config), torch.nn.DataParallel(net), str(record), x, str(tmp_path / "net.pth")
    )
    with torch.no_grad():
        np.testing.assert_array_equal(again.eval()(x).numpy(), wanted)
    torch.save({"state": model.state_dict(), "loss": np.float64(1)}, tmp_path / "net.pth")
    with pytest.raises(ConfigRuntimeError, match="more than tensors, numbers and texts"):
        amct.restore_quant_retrain_model(
            str(config), net, str(record), x, str(tmp_path / "net.pth"), "state"
        )

    with pytest.raises(ConfigTypeError, match="what create_quant_retrain_model returns"):
        amct.save_quant_retrain_model(str(config), net, str(record), str(tmp_path / "x"), x)
    config.write_text(json.dumps(content | {"batch_num": 3}), encoding="utf-8")
    with pytest.raises(ConfigRuntimeError, match="not the configuration"):
        amct.save_quant_retrain_model(str(config), model, str(record), str(tmp_path / "x"), x)
