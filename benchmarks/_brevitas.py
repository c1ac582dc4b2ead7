"""Train a network with Brevitas, in an environment of its own; `training.py --brevitas PYTHON` runs this file there.

The ONNX file becomes a torch module (onnx2torch), since Brevitas takes nothing else; its quantizers are put in and calibrated as
its documentation says, weights with one scale a channel; then it is trained as `training.py` trains: to answer as the float network
does, on images shifted and turned, Adam, warm-up and cosine. It is exported as QCDQ, the state with the least loss on images that are not
trained on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time

import numpy as np
import torch
from _moved import moved
from brevitas.export import export_onnx_qcdq
from brevitas.graph import quantize as places
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from brevitas.quant import Int8WeightPerChannelFloat
from onnx2torch import convert
from torch.nn import functional

BATCH, HELD, EPOCH_LOOKS = 64, 512, 2
#: Share of the budget in which the rate grows.
WARM = 0.05


def asked() -> argparse.Namespace:
    """Read the command line."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--model", required=True)
    found.add_argument("--data", required=True, help="npz of calib, train")
    found.add_argument("--out", required=True)
    found.add_argument("--weight-bits", type=int, required=True)
    found.add_argument("--activation-bits", type=int, required=True)
    found.add_argument("--minutes", type=float, required=True)
    found.add_argument("--lr", type=float, required=True)
    found.add_argument("--seed", type=int, required=True)
    found.add_argument("--threads", type=int, required=True)
    return found.parse_args()


def with_plain_numbers() -> None:
    """Let Brevitas trace slices by numbers of numpy, as onnx2torch leaves them."""
    from brevitas.backport.fx.proxy import TracerBase

    create = TracerBase.create_arg

    def create_arg(self: TracerBase, a: object) -> object:
        return create(self, a.item() if isinstance(a, np.integer) else a)

    TracerBase.create_arg = create_arg


def quantized(model: torch.nn.Module, weight_bits: int, activation_bits: int) -> torch.nn.Module:
    """Put quantizers in front of each layer and at its weight and bias."""
    table = {
        k: None
        if v is None
        else (
            v[0],
            {
                **v[1],
                "weight_quant": Int8WeightPerChannelFloat,
                "weight_bit_width": weight_bits,
                "input_bit_width": activation_bits,
            },
        )
        for k, v in places.LAYERWISE_COMPUTE_LAYER_MAP.items()
        if v is None or "weight_quant" in v[1]
    }
    model = places.preprocess_for_quantize(model, trace_model=True, merge_bn=True)
    return places.layerwise_quantize(model, compute_layer_map=table)


def main() -> None:
    """Calibrate, train, export; print what was done as JSON."""
    a = asked()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    with np.load(a.data) as held:
        calib, train = (torch.from_numpy(held[k]) for k in ("calib", "train"))
    with_plain_numbers()
    teacher = convert(a.model).eval()
    model = quantized(copy.deepcopy(teacher), a.weight_bits, a.activation_bits)
    model.eval()
    with torch.no_grad():
        with calibration_mode(model):
            for x in calib.split(BATCH):
                model(x)
        with bias_correction_mode(model):
            for x in calib.split(BATCH):
                model(x)
    order = rng.permutation(len(train))
    kept, used = train[order[:HELD]], train[order[HELD:]]

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = functional.log_softmax(teacher(x), dim=1)
        found = functional.log_softmax(model(x), dim=1)
        return functional.kl_div(found, wanted, log_target=True, reduction="batchmean")

    def look() -> float:
        model.eval()
        with torch.no_grad():
            return sum(float(loss_of(x)) * len(x) for x in kept.split(256)) / len(kept)

    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, weight_decay=0)
    best, state = look(), copy.deepcopy(model.state_dict())
    began, budget, steps = time.monotonic(), 60 * a.minutes, 0
    each = max(1, len(used) // BATCH // EPOCH_LOOKS)
    while (done := (time.monotonic() - began) / budget) < 1:
        rate = min(1.0, done / WARM) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = a.lr * rate
        x = moved(used[rng.integers(0, len(used), BATCH)], rng)
        model.eval()  # batch normalization is folded; quantizers learn their scales either way
        loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % each == 0 and (now := look()) < best:
            best, state = now, copy.deepcopy(model.state_dict())
    if (now := look()) < best:
        best, state = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        model(calib[:1])
        export_onnx_qcdq(
            model, args=calib[:1], export_path=a.out, opset_version=17, dynamo=False,
            input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        )  # fmt: skip
    seconds = time.monotonic() - began
    print(json.dumps({"epochs": steps * BATCH / len(used), "seconds": seconds, "loss": best}))


if __name__ == "__main__":
    main()
