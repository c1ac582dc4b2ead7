"""Six steps of training with AMCT's functions, against its formulas written down once more.

The reference is naive: forward and backward of each quantizer as published, plain layers between, and an optimizer that
subtracts the rate times the gradient.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn
from torch.nn import functional as F  # noqa: N812

from calibrant.compat import amct

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

EPS = 1.192092896e-07
RATE = 0.05


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        y = F.relu(self.conv1(x))
        return self.fc(F.relu(self.conv2(y)).mean((2, 3)))


# ------------------------------------------------------------------------------------------ the reference


def grid(high: float, low: float, bits: int):
    top, bottom = np.float32(max(high, 0)), np.float32(min(low, 0))
    scale = (top - bottom) / np.float32(2**bits - 1)
    if scale < EPS:
        return np.float32(1), np.float32(-(2 ** (bits - 1)))
    return scale, np.float32(np.rint(-(2 ** (bits - 1)) - bottom / scale))


class Ulq(torch.autograd.Function):  # type: ignore[name-defined]  # torch says no types of it
    @staticmethod
    def forward(ctx, x, high, low, used, bits):
        scale, offset = grid(used[0], used[1], bits)
        ctx.held = x, used, scale, offset, bits
        q = (x / scale + offset).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return (q - offset) * scale

    @staticmethod
    def backward(ctx, g):
        x, (high, low), scale, offset, bits = ctx.held
        up = x > scale * (2 ** (bits - 1) - 1 - offset)
        down = x < scale * (-(2 ** (bits - 1)) - offset)
        v = x.clone()
        v[up], v[down] = float(high), float(low)
        v = v / scale
        e = (v.round() - v) / (2**bits - 1)
        return (
            g * ~(up | down),
            ((e + up.float()) * g).sum(),
            ((down.float() - e) * g).sum(),
            None,
            None,
        )


class Arq(torch.autograd.Function):  # type: ignore[name-defined]  # torch says no types of it
    @staticmethod
    def forward(ctx, w, bits, channel_wise):
        scale = arq(w, bits, channel_wise)
        shape = (-1, *[1] * (w.ndim - 1)) if channel_wise else ()
        s = scale.reshape(shape)
        return (w / s).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * s

    @staticmethod
    def backward(ctx, g):
        return g, None, None


def arq(w, bits, channel_wise):
    rows = w.reshape(w.shape[0], -1) if channel_wise else w.reshape(1, -1)
    found = []
    for row in rows:
        high, low = abs(row.max().item()), abs(row.min().item())
        levels = 2 ** (bits - 1) if low > high else 2 ** (bits - 1) - 1
        scale = np.float32(max(high, low)) / np.float32(levels)
        found.append(scale if scale >= EPS else np.float32(1))
    return torch.tensor(np.array(found))


class UlqWeight(torch.autograd.Function):  # type: ignore[name-defined]  # torch says no types of it
    @staticmethod
    def forward(ctx, w, scale, bits):
        ctx.held = w, scale, bits
        s = scale.reshape(-1, 1, 1, 1)
        return (w / s).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * s

    @staticmethod
    def backward(ctx, g):
        w, scale, bits = ctx.held
        half, s = 2 ** (bits - 1), scale.reshape(-1, 1, 1, 1)
        t = (w / s).round() - w / s
        t = torch.where(w < -half * s, torch.tensor(-float(half)), t)
        t = torch.where(w > (half - 1) * s, torch.tensor(float(half - 1)), t)
        m = w[0].numel()
        return g, (t * g).flatten(1).sum(1) / (m * (half - 1)) ** 0.5, None


def ifmr(x, bits):
    """Symmetric: 61 shares of the largest magnitude, the one of least squared error."""
    x = x.detach().numpy().ravel()
    top, bottom = max(x.max(), 0), min(x.min(), 0)
    levels = 2 ** (bits - 1) if abs(top) < abs(bottom) else 2 ** (bits - 1) - 1
    best = np.inf, np.float32(1)
    for i in range(61):
        bound = np.float32(np.float32(0.7) + np.float32(0.01) * np.float32(i)) * np.float32(
            max(abs(top), abs(bottom))
        )
        s = bound / np.float32(levels)
        loss = ((np.rint(np.clip(x, -bound, bound) / s) * s - x).astype(np.float64) ** 2).sum()
        if loss < best[0]:
            best = loss, s
    return best[1] * np.float32(2 ** (bits - 1) - 1), best[1] * -np.float32(2 ** (bits - 1))


class Reference:
    """The network with quantizers in front of each layer."""

    def __init__(self, net, clips, bits, weights, batch_num):
        self.bits, self.weights, self.batch_num, self.seen = bits, weights, batch_num, []
        self.p = {k: v.detach().clone().requires_grad_() for k, v in net.state_dict().items()}
        self.clips = {
            k: [torch.tensor(float(c)).requires_grad_() for c in clips.get(k, (1.0, -1.0))]
            for k in ("conv1", "conv2", "fc")
        }
        self.last = {}
        self.given = set(clips)
        self.scale = arq(self.p["conv2.weight"].detach(), bits, True).requires_grad_()

    def activation(self, name, x, *, fixed_min):
        high, low = self.clips[name]
        if name not in self.given and len(self.seen) < self.batch_num:
            self.seen.append(x.detach())
            start = (x.max().item(), x.min().item())
            if len(self.seen) == self.batch_num:
                start = ifmr(torch.cat([s.flatten() for s in self.seen]), self.bits)
            with torch.no_grad():
                high.fill_(float(start[0]))
                low.fill_(float(start[1]))
            self.last[name] = high.item(), low.item()
        a, b = high.item(), 0.0 if fixed_min else low.item()
        before = self.last.get(name, (a, b))
        if a - b <= EPS:
            a, b = before
        elif a < 0:
            a = before[0]
        elif b > 0:
            b = before[1]
        y = Ulq.apply(x, high, low, (a, b), self.bits)
        self.last[name] = a, b
        with torch.no_grad():
            high.fill_(a)
            low.fill_(b)
        return y

    def __call__(self, x):
        p, bits = self.p, self.bits
        y = self.activation("conv1", x, fixed_min=False)
        y = F.relu(
            F.conv2d(y, Arq.apply(p["conv1.weight"], bits, True), p["conv1.bias"], padding=1)
        )
        y = self.activation("conv2", y, fixed_min=True)
        w = p["conv2.weight"]
        w = (
            Arq.apply(w, bits, True)
            if self.weights == "arq_retrain"
            else UlqWeight.apply(w, self.scale, bits)
        )
        y = F.relu(F.conv2d(y, w, padding=1)).mean((2, 3))
        y = self.activation("fc", y, fixed_min=False)
        return F.linear(y, Arq.apply(p["fc.weight"], bits, False), p["fc.bias"])

    def parameters(self):
        clips = [c for pair in self.clips.values() for c in pair]
        return [*self.p.values(), *clips, *([self.scale] if self.weights == "ulq_retrain" else [])]


@pytest.mark.parametrize("weights", ["arq_retrain", "ulq_retrain"])
@pytest.mark.parametrize("bits", [8, 4])
def test_six_steps_are_the_vendors(tmp_path, weights, bits):
    torch.manual_seed(1)
    net, x = Net(), torch.randn(4, 2, 8, 8)
    config, record = tmp_path / "config.json", tmp_path / "record.txt"
    amct.create_quant_retrain_config(str(config), net, x)
    content = json.loads(config.read_text(encoding="utf-8")) | {"batch_num": 2}
    clips = {"conv1": (1.5, -1.25), "conv2": (0.75, -0.5)}
    for name in ("conv1", "conv2", "fc"):
        data, weight = content[name]["retrain_data_config"], content[name]["retrain_weight_config"]
        data["dst_type"] = weight["dst_type"] = f"INT{bits}"
        if name in clips:
            data |= dict(zip(("clip_max", "clip_min"), clips[name], strict=True))
    content["conv2"]["retrain_weight_config"]["algo"] = weights
    config.write_text(json.dumps(content), encoding="utf-8")

    model = amct.create_quant_retrain_model(str(config), net, str(record), x).train()
    reference = Reference(net, clips, bits, weights, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(6):
        batch, target = torch.randn(16, 2, 8, 8), torch.arange(16) % 4
        wanted = F.cross_entropy(reference(batch), target)
        found = F.cross_entropy(model(batch), target)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6), step
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        for p in reference.parameters():
            p.grad = None
        wanted.backward()
        with torch.no_grad():
            for name, (_, low) in reference.clips.items():
                if name == "conv2":
                    low.grad = None  # it is fixed
            for p in reference.parameters():
                if p.grad is not None:
                    p -= RATE * p.grad
        trained = model.qat.trained
        for name in ("conv1", "conv2", "fc"):
            ends = trained.activation(read_by(model, name)).ends.tolist()
            assert ends == pytest.approx([c.item() for c in reference.clips[name]], rel=1e-6)
            mine = trained.weight(name)
            np.testing.assert_allclose(
                mine.weight.detach().reshape(-1),
                reference.p[f"{name}.weight"].detach().reshape(-1),
                rtol=1e-6,
                atol=1e-8,
            )
        np.testing.assert_allclose(
            trained.bias("conv1").bias.detach(),
            reference.p["conv1.bias"].detach(),
            rtol=1e-6,
            atol=1e-8,
        )
    if weights == "ulq_retrain":
        np.testing.assert_allclose(
            trained.weight("conv2").scale.detach(),
            reference.scale.detach(),
            rtol=1e-6,
        )

    model.eval()
    with torch.no_grad():
        model(x)
    text = record.read_text(encoding="utf-8")
    for name in ("conv1", "conv2", "fc"):
        high, low = (c.item() for c in reference.clips[name])
        scale, _ = grid(high, 0.0 if name == "conv2" else low, bits)
        entry = text.split(f'key: "{name}"')[1].split("record {")[0]
        said = float(entry.split("scale_d:")[1].split()[0])
        assert said == pytest.approx(float(scale), rel=1e-6)


def read_by(model, layer):
    plan = model.qat.solution.plan
    return next(d.id for d in plan.activations if any(node == layer for node, _ in d.users))
