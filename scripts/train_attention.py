"""Train the attention network that the tests quantize, and write its data beside it.

    pip install torch onnx                       (tested: torch 2.13.0)
    python scripts/train_attention.py            (about three minutes on one core)

The task is recall: a sequence lists pairs of a key and a value and ends with a key that stood among them,

    [CLS] k v k v … k v [SEP] q [PAD] …          the class is the value that followed q

so that attention has to find q, and then what stands behind it. Sequences have 3 to 11 pairs; what is
shorter than its batch is padded and masked. The data is generated; nothing comes from outside.

The graph is written as encoders are usually exported: Gather embeddings, MatMul + Add layers, an additive
mask made of int64 by (1 - mask) * lowest float32, Erf GELU, and two forms of layer normalization. After
training, a few channels of each layer normalization are scaled up by OUTLIER and the weights that read
them scaled down, which changes nothing in float and gives the outlier channels that BERT has.

Source of the outliers: Bondarenko, Nagel, Blankevoort, "Understanding and overcoming the challenges of
efficient transformer quantization", EMNLP 2021, section 3.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import torch
from torch import nn

OUT = Path(__file__).resolve().parents[1] / "tests" / "models"
SEED = 11
PAD, CLS, SEP = 0, 1, 2
KEYS, VALUES = 24, 12
VOCABULARY = 3 + KEYS + VALUES
PAIRS = (3, 11)
LENGTH = 3 + 2 * PAIRS[1]
WIDTH, HEADS, HIDDEN, LAYERS = 64, 4, 128, 3
STEPS, BATCH = 6000, 128
CALIBRATION, TEST = 64, 512
OUTLIER, OUTLIER_CHANNELS = 8.0, 3


class Samples(NamedTuple):
    """Token ids and mask, both (n, LENGTH) int64, and the class of each (n,)."""

    ids: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


def generate(n: int, rng: np.random.Generator) -> Samples:
    """Draw `n` sequences; keys of one sequence are all different."""
    ids = np.full((n, LENGTH), PAD)
    labels = np.empty(n, dtype=np.int64)
    for row, pairs in enumerate(rng.integers(PAIRS[0], PAIRS[1] + 1, n)):
        keys = 3 + rng.permutation(KEYS)[:pairs]
        values = rng.integers(0, VALUES, pairs)
        asked = rng.integers(pairs)
        body = np.stack([keys, 3 + KEYS + values], axis=1).ravel()
        ids[row, : 2 * pairs + 3] = [CLS, *body, SEP, keys[asked]]
        labels[row] = values[asked]
    return Samples(ids, (ids != PAD).astype(np.int64), labels)


class Block(nn.Module):
    """Attention and a GELU layer, each behind its own layer normalization."""

    def __init__(self) -> None:
        """Draw the first weights from torch's generator."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return (n, length, WIDTH) of the same; `bias` (n, 1, 1, length) is added to the scores."""
        n, length, _ = x.shape
        y = self.norm1(x)
        q, k, v = (
            layer(y).view(n, length, HEADS, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, WIDTH))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """Embeddings, LAYERS blocks, and a classifier on the first position."""

    def __init__(self) -> None:
        """Draw the first weights from torch's generator."""
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.last = nn.LayerNorm(WIDTH)
        self.classifier = nn.Linear(WIDTH, VALUES)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return logits (n, VALUES)."""
        x = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        bias = ((1 - mask) * torch.finfo(torch.float32).min)[:, None, None, :]
        for block in self.blocks:
            x = block(x, bias)
        return self.classifier(self.last(x[:, 0]))


def train() -> Encoder:
    """Train on fresh sequences from the fixed seed; AdamW, one cycle."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    net = Encoder()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        ids, mask, labels = map(torch.from_numpy, generate(BATCH, rng))
        loss = nn.functional.cross_entropy(net(ids, mask.float()), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 499:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return net.eval()


@torch.no_grad()
def add_outliers(net: Encoder) -> None:
    """Scale OUTLIER_CHANNELS channels of each block's normalizations up, and their readers down."""
    rng = np.random.default_rng(SEED)
    for block in net.blocks:
        for norm, readers in (
            (block.norm1, (block.query, block.key, block.value)),
            (block.norm2, (block.up,)),
        ):
            channels = rng.choice(WIDTH, OUTLIER_CHANNELS, replace=False)
            norm.weight[channels] *= OUTLIER
            norm.bias[channels] *= OUTLIER
            for layer in readers:
                layer.weight[:, channels] /= OUTLIER


class Writer:
    """Collects nodes and initializers; every method returns the name of what it made."""

    def __init__(self) -> None:
        """Start empty."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node named after its output."""
        node = onnx.helper.make_node(op_type, inputs, [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        """Add an initializer; a second call with the same name changes nothing."""
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        array = np.ascontiguousarray(array, dtype=dtype).reshape(np.shape(array))
        self.initializers.setdefault(name, onnx.numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, layer: nn.Linear, name: str) -> str:
        """Add MatMul and Add."""
        y = self.op(
            "MatMul", [x, self.constant(f"{name}.weight", layer.weight.T)], f"{name}/MatMul"
        )
        return self.op("Add", [self.constant(f"{name}.bias", layer.bias), y], f"{name}/Add")

    def norm(self, x: str, layer: nn.LayerNorm, name: str) -> str:
        """Add one LayerNormalization."""
        stored = [self.constant(f"{name}.{n}", p) for n, p in layer.named_parameters()]
        return self.op("LayerNormalization", [x, *stored], name, axis=-1, epsilon=layer.eps)

    def norm_in_steps(self, x: str, layer: nn.LayerNorm, name: str) -> str:
        """Add the nine operators that older exporters write for a layer normalization."""
        gain, shift = (self.constant(f"{name}.{n}", p) for n, p in layer.named_parameters())
        mean = self.op("ReduceMean", [x], f"{name}/mean", axes=[-1])
        centred = self.op("Sub", [x, mean], f"{name}/Sub")
        square = self.op("Pow", [centred, self.constant("two", 2.0)], f"{name}/Pow")
        variance = self.op("ReduceMean", [square], f"{name}/variance", axes=[-1])
        safe = self.op("Add", [variance, self.constant("epsilon", layer.eps)], f"{name}/Add")
        deviation = self.op("Sqrt", [safe], f"{name}/Sqrt")
        ratio = self.op("Div", [centred, deviation], f"{name}/Div")
        scaled = self.op("Mul", [ratio, gain], f"{name}/Mul")
        return self.op("Add", [scaled, shift], name)

    def attention(self, x: str, block: Block, bias: str, name: str) -> str:
        """Add scaled dot-product attention over HEADS heads."""
        split = self.constant("heads", [0, 0, HEADS, WIDTH // HEADS], np.int64)
        parts = {}
        for part, layer in (("q", block.query), ("k", block.key), ("v", block.value)):
            y = self.linear(x, layer, f"{name}/{part}")
            y = self.op("Reshape", [y, split], f"{name}/{part}/Reshape")
            order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            parts[part] = self.op("Transpose", [y], f"{name}/{part}/Transpose", perm=order)
        scores = self.op("MatMul", [parts["q"], parts["k"]], f"{name}/scores")
        root = self.constant("root", (WIDTH / HEADS) ** 0.5)
        scaled = self.op("Div", [scores, root], f"{name}/Div")
        masked = self.op("Add", [scaled, bias], f"{name}/masked")
        weights = self.op("Softmax", [masked], f"{name}/Softmax", axis=-1)
        mixed = self.op("MatMul", [weights, parts["v"]], f"{name}/mixed")
        turned = self.op("Transpose", [mixed], f"{name}/Transpose", perm=[0, 2, 1, 3])
        merged = self.constant("merged", [0, 0, WIDTH], np.int64)
        joined = self.op("Reshape", [turned, merged], f"{name}/Reshape")
        return self.linear(joined, block.out, f"{name}/out")

    def gelu(self, x: str, name: str) -> str:
        """Add 0.5 * (x * (1 + erf(x / sqrt 2)))."""
        y = self.op("Div", [x, self.constant("sqrt_two", 2**0.5)], f"{name}/Div")
        y = self.op("Erf", [y], f"{name}/Erf")
        y = self.op("Add", [y, self.constant("one", 1.0)], f"{name}/Add")
        y = self.op("Mul", [x, y], f"{name}/Mul")
        return self.op("Mul", [y, self.constant("half", 0.5)], name)


def to_onnx(net: Encoder) -> onnx.ModelProto:
    """Write the network: opset 17, inputs `ids` and `mask` (N, L) int64, output `logits`."""
    w = Writer()
    length = w.op(
        "Gather", [w.op("Shape", ["ids"], "shape"), w.constant("at1", [1], np.int64)], "length"
    )
    zero = w.constant("at0", [0], np.int64)
    positions = w.constant("positions.weight", net.positions.weight)
    tokens = w.constant("tokens.weight", net.tokens.weight)
    here = w.op("Slice", [positions, zero, length], "positions")
    x = w.op("Add", [w.op("Gather", [tokens, "ids"], "tokens"), here], "embedded")
    x = w.norm_in_steps(x, net.norm, "norm")

    mask = w.op("Unsqueeze", ["mask", w.constant("middle", [1, 2], np.int64)], "mask/Unsqueeze")
    mask = w.op("Cast", [mask], "mask/Cast", to=onnx.TensorProto.FLOAT)
    mask = w.op("Sub", [w.constant("one", 1.0), mask], "mask/Sub")
    bias = w.op("Mul", [mask, w.constant("lowest", np.finfo(np.float32).min)], "mask/bias")
    for i, block in enumerate(net.blocks):
        y = w.attention(
            w.norm(x, block.norm1, f"block{i}/norm1"), block, bias, f"block{i}/attention"
        )
        x = w.op("Add", [y, x], f"block{i}/sum1")
        y = w.linear(w.norm(x, block.norm2, f"block{i}/norm2"), block.up, f"block{i}/up")
        y = w.linear(w.gelu(y, f"block{i}/gelu"), block.down, f"block{i}/down")
        x = w.op("Add", [y, x], f"block{i}/sum2")
    first = w.op("Gather", [x, w.constant("first", 0, np.int64)], "first_token", axis=1)
    y = w.norm(first, net.last, "last")
    weight = w.constant("classifier.weight", net.classifier.weight)
    w.op(
        "Gemm", [y, weight, w.constant("classifier.bias", net.classifier.bias)], "logits", transB=1
    )

    whole = onnx.TensorProto.INT64
    graph = onnx.helper.make_graph(
        w.nodes,
        "recall",
        [onnx.helper.make_tensor_value_info(name, whole, ["N", "L"]) for name in ("ids", "mask")],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", VALUES])],
        list(w.initializers.values()),
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="calibrant"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, check that the outliers changed nothing, and write the model and its data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out

    net = train()
    rng = np.random.default_rng(SEED + 1)
    calibration, test = generate(CALIBRATION, rng), generate(TEST, rng)
    feed = torch.from_numpy(test.ids), torch.from_numpy(test.mask).float()
    before = net(*feed).detach().numpy()
    add_outliers(net)
    after = net(*feed).detach().numpy()
    change = np.abs(after - before).max() / np.abs(before).max()
    print(
        f"test accuracy {(after.argmax(1) == test.labels).mean():.4f}; outliers moved logits by {change:.1e}"
    )
    if change > 1e-4:
        raise SystemExit("The outliers changed the network's function.")

    out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(net), out / "attention.onnx")
    np.savez_compressed(
        out / "attention_data.npz",
        calibration_ids=calibration.ids.astype(np.uint8),
        calibration_mask=calibration.mask.astype(np.uint8),
        evaluation_ids=test.ids.astype(np.uint8),
        evaluation_mask=test.mask.astype(np.uint8),
        labels=test.labels.astype(np.uint8),
        logits=after,
    )
    for name in ("attention.onnx", "attention_data.npz"):
        print(f"{name}: {(out / name).stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
