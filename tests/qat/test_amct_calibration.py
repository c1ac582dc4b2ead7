"""AMCT's calibration script on a module of torch, with the import changed."""

from __future__ import annotations

import inspect

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="modules need torch")

from torch import nn
from torch.nn import functional as F  # noqa: N812

from calibrant.compat import amct

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter, about parts of its own

SIGNATURES = {
    "create_quant_retrain_config": "config_file model input_data config_defination",
    "create_quant_retrain_model": "config_file model record_file input_data",
    "restore_quant_retrain_model": "config_file model record_file input_data pth_file state_dict_name",
    "save_quant_retrain_model": "config_file model record_file save_path input_data input_names output_names dynamic_axes",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_arguments_are_the_vendors(name):
    assert list(inspect.signature(getattr(amct, name)).parameters) == SIGNATURES[name].split()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(F.relu(self.bn1(self.conv1(x))).mean((2, 3)))


@pytest.mark.slow
def test_a_script_calibrates_a_module(tmp_path):
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(4, 1, 8, 8)
    config, record = str(tmp_path / "config.json"), str(tmp_path / "record.txt")
    modified, prefix = str(tmp_path / "modified.onnx"), str(tmp_path / "out" / "net")
    amct.create_quant_config(config, net, x, batch_num=2)
    model = amct.quantize_model(
        config,
        modified,
        record,
        net,
        x,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
    )
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            batch = torch.randn(16, 1, 8, 8)
            torch.testing.assert_close(model(batch), net(batch))
    amct.save_model(modified, record, prefix)
    said = (tmp_path / "record.txt").read_text(encoding="utf-8")
    assert [k for k in ("conv1", "fc") if f'key: "{k}"' in said] == ["conv1", "fc"]
    for name in ("fake_quant", "deploy"):
        session = ort.InferenceSession(
            f"{prefix}_{name}_model.onnx", providers=["CPUExecutionProvider"]
        )
        found = session.run(["scores"], {"image": x.numpy()})[0]
        wanted = net(x).detach().numpy()
        np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())
