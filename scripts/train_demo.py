"""Train the network that `calibrant demo` quantizes, and write its data beside it.

    pip install torch scikit-learn onnx          (tested: torch 2.13.0, scikit-learn 1.9.1)
    python scripts/train_demo.py                 (about two minutes on one core)

The network is a small MobileNet for the 8 x 8 handwritten digits of scikit-learn, shown at 16 x 16:
depthwise separable convolutions with unfused batch normalization, ReLU6 and LeakyReLU, and a residual
add. After training, channels between layers are rescaled,

    gain and shift of channel c      times  a[c]
    weights that read channel c      divided by a[c]

which changes nothing in float, because LeakyReLU(a x) = a LeakyReLU(x) for a > 0. It is what training
with weight decay and batch normalization does to large depthwise networks by itself, and what makes them
hard: the kernels of one layer differ by two decades, so that one scale for all of them loses the small.

Source: Nagel, van Baalen, Blankevoort, Welling, "Data-free quantization through weight equalization and
bias correction", ICCV 2019, sections 3.1 and 4.1 (the same identity, used the other way round).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import torch
from sklearn.datasets import load_digits
from torch import nn

DATA = Path(__file__).resolve().parents[1] / "src" / "calibrant" / "demo" / "data"
SEED = 7
CALIBRATION, TEST = 96, 600
EPOCHS = 60
SLOPE = 0.1  # of LeakyReLU

#: name, kind, input, in, out, stride, groups, activation
LAYERS = (
    ("stem", "image", 1, 32, 1, 1, "relu6"),
    ("dw1", "stem", 32, 32, 1, 32, "leaky"),
    ("pw1", "dw1", 32, 64, 1, 1, "leaky"),
    ("dw2", "pw1", 64, 64, 2, 64, "leaky"),
    ("pw2", "dw2", 64, 64, 1, 1, "leaky"),
    ("dw3", "pw2", 64, 64, 1, 64, "leaky"),
    ("pw3", "dw3", 64, 64, 1, 1, "add pw2"),
    ("dw4", "pw3", 64, 64, 2, 64, "leaky"),
    ("pw4", "dw4", 64, 128, 1, 1, "leaky"),
)

#: Layers whose output channels are scaled by `a ** sign`, and the layers that read them. The two layers
#: on one residual stream share their factors. What a depthwise layer reads is scaled by `a`, what it
#: writes by `1 / a`: its kernels then spread over twice the decades of its inputs and outputs.
RESCALED = (
    (("dw1",), ("pw1",), "first", 1),
    (("pw1",), ("dw2",), "second", 1),
    (("dw2",), ("pw2",), "second", -1),
    (("pw2", "pw3"), ("dw3", "dw4"), "third", 1),
    (("dw3",), ("pw3",), "third", -1),
    (("dw4",), ("pw4",), "third", -1),
)
DECADES = 1.4  # from the smallest `a` of a group to the largest, in powers of ten


class Digits(nn.Module):
    """The network, layer by layer as in LAYERS, then the mean over the image and a linear layer."""

    def __init__(self) -> None:
        """Draw the first weights from torch's generator."""
        super().__init__()
        self.conv = nn.ModuleDict()
        self.norm = nn.ModuleDict()
        for name, _, into, out, stride, groups, _ in LAYERS:
            kernel = 1 if name.startswith("pw") else 3
            self.conv[name] = nn.Conv2d(
                into, out, kernel, stride, kernel // 2, groups=groups, bias=False
            )
            self.norm[name] = nn.BatchNorm2d(out)
        self.classifier = nn.Linear(LAYERS[-1][3], 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 10) of images (N, 1, 16, 16)."""
        values = {"image": image}
        for name, source, *_, activation in LAYERS:
            x = self.norm[name](self.conv[name](values[source]))
            if activation == "relu6":
                x = nn.functional.relu6(x)
            else:
                if activation.startswith("add "):
                    x = x + values[activation.removeprefix("add ")]
                x = nn.functional.leaky_relu(x, SLOPE)
            values[name] = x
        return self.classifier(values[LAYERS[-1][0]].mean(dim=(2, 3)))


def prepare(stored: np.ndarray) -> np.ndarray:
    """Turn stored digits (N, 8, 8), 0 to 16, into images (N, 1, 16, 16), 0 to 1."""
    large = stored.repeat(2, axis=1).repeat(2, axis=2)
    return large[:, None].astype(np.float32) / 16


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image by up to two pixels in both directions, zeros coming in at the edge."""
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    moves = torch.randint(0, 5, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [p[:, y : y + 16, x : x + 16] for p, (y, x) in zip(padded, moves, strict=True)]
    )


def train(images: np.ndarray, labels: np.ndarray) -> Digits:
    """Train from the fixed seed; AdamW, one cycle, label smoothing."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(SEED)
    net = Digits()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
    batches = len(x) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * batches)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)
        for batch in order[: batches * 64].split(64):
            loss = loss_of(net(shifted(x[batch], generator)), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return net.eval()


@torch.no_grad()
def unbalance(net: Digits) -> None:
    """Rescale the channels of RESCALED; the function of the network stays the same."""
    rng = np.random.default_rng(SEED)
    exponents: dict[str, np.ndarray] = {}
    for writers, readers, group, sign in RESCALED:
        channels = net.norm[writers[0]].num_features
        if group not in exponents:
            exponents[group] = rng.permutation(np.linspace(-DECADES / 2, DECADES / 2, channels))
        a = torch.from_numpy((10.0 ** (sign * exponents[group])).astype(np.float32))  # (channels,)
        for name in writers:
            net.norm[name].weight *= a
            net.norm[name].bias *= a
        for name in readers:  # depthwise kernels hold channels on axis 0, pointwise ones on axis 1
            axis = 0 if net.conv[name].groups > 1 else 1
            net.conv[name].weight /= a.view([-1 if i == axis else 1 for i in range(4)])


def to_onnx(net: Digits) -> onnx.ModelProto:
    """Write the network as it stands: opset 17, batch `N`, batch normalizations unfused."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(onnx.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(name: str, value: torch.Tensor | np.ndarray) -> str:
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    low, high = (weight(n, np.array(v, np.float32)) for n, v in (("low", 0), ("high", 6)))
    for name, source, *_, activation in LAYERS:
        conv, norm = net.conv[name], net.norm[name]
        x = add(
            "Conv", [source, weight(f"{name}.weight", conv.weight)], f"{name}_conv",
            group=conv.groups, strides=list(conv.stride), kernel_shape=list(conv.kernel_size),
            pads=[conv.padding[0]] * 4,
        )  # fmt: skip
        fields = ("weight", "bias", "running_mean", "running_var")
        stored = [weight(f"{name}_bn.{f}", getattr(norm, f)) for f in fields]
        x = add("BatchNormalization", [x, *stored], f"{name}_bn", epsilon=norm.eps)
        if activation == "relu6":
            add("Clip", [x, low, high], name)
        else:
            if activation.startswith("add "):
                x = add("Add", [x, activation.removeprefix("add ")], f"{name}_add")
            add("LeakyRelu", [x], name, alpha=SLOPE)
    add("GlobalAveragePool", [LAYERS[-1][0]], "pool")
    add("Flatten", ["pool"], "features")
    last = [weight(f"classifier.{n}", p) for n, p in net.classifier.named_parameters()]
    add("Gemm", ["features", *last], "logits", transB=1)

    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "digits",
        [onnx.helper.make_tensor_value_info("image", kind, ["N", 1, 16, 16])],
        [onnx.helper.make_tensor_value_info("logits", kind, ["N", 10])],
        weights,
    )  # fmt: skip
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="calibrant"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, check that rescaling changed nothing, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA)
    out: Path = parser.parse_args().out

    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    stored = digits.images[order].astype(np.uint8)
    labels = digits.target[order].astype(np.int64)
    test, calibration = slice(0, TEST), slice(TEST, TEST + CALIBRATION)
    rest = slice(TEST + CALIBRATION, None)

    net = train(prepare(stored[rest]), labels[rest])
    images = torch.from_numpy(prepare(stored[test]))
    before = net(images).detach().numpy()
    unbalance(net)
    after = net(images).detach().numpy()
    accuracy = (after.argmax(1) == labels[test]).mean()
    change = np.abs(after - before).max() / np.abs(before).max()
    print(
        f"{len(labels[rest])} training images; test accuracy {accuracy:.4f}; rescaling moved logits by {change:.1e}"
    )
    if change > 1e-4:
        raise SystemExit("Rescaling changed the network's function.")

    out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(net), out / "digits.onnx")
    for name, part in (("calibration", calibration), ("test", test)):
        np.savez_compressed(
            out / f"{name}.npz", image=stored[part], labels=labels[part].astype(np.uint8)
        )
    for path in sorted(out.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
