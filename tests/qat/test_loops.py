"""A loop of the user's own: copies, states, half precision, compilation, and two processes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from calibrant.compat import amct
from calibrant.errors import ConfigValueError
from calibrant.qat import prepare
from calibrant.qat.checkpoint import state_of
from tests.models import Weights, build, normal
from tests.qat.quick import RECIPE, batches, network

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about its own parts


@pytest.fixture(scope="module")
def prepared():
    return network()


@pytest.fixture
def qat(prepared):
    return copy.deepcopy(prepared[2])


def take_steps(module, qat, inputs, *, autocast: bool = False) -> list[float]:
    """Train a module as a user does, and return the losses."""
    optimizer = torch.optim.AdamW(qat.parameter_groups(1e-2))
    losses = []
    module.train()
    for x in map(torch.from_numpy, inputs):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            answer = module(x)
        loss = (answer.float() - 1.1 * qat.teacher(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def equal(a, b) -> bool:
    return all(np.array_equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


def test_a_copy_trains_as_the_first_one_and_leaves_it_alone(qat):
    other, start = copy.deepcopy(qat), state_of(qat.module)
    assert other.module is other.trained.module
    inputs = batches(3, 8)
    losses = take_steps(other.module, other, inputs)
    assert equal(state_of(qat.module), start)
    assert not equal(state_of(other.module), start)
    assert take_steps(qat.module, qat, inputs) == losses
    assert equal(state_of(qat.module), state_of(other.module))


def test_the_mean_of_states_is_deployed(qat):
    averaged = torch.optim.swa_utils.AveragedModel(
        qat.module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    for x in batches(3, 8):
        take_steps(qat.module, qat, [x])
        averaged.update_parameters(qat.module)
    qat.load_state_dict(averaged.module.state_dict())
    assert qat.convert().summary["training"]["agreement"]["typical_db"] > 40


def test_a_state_that_was_saved_goes_on_with_the_same_losses(qat, prepared, tmp_path):
    inputs = batches(4, 8)
    optimizer = torch.optim.AdamW(qat.parameter_groups(1e-2))

    def step(q, o, x):
        q.module.train()
        loss = (q.module(x) - 1.1 * q.teacher(x)).square().mean()
        o.zero_grad()
        loss.backward()
        o.step()
        return loss.item()

    for x in inputs[:2]:
        step(qat, optimizer, torch.from_numpy(x))
    held = {"model": qat.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(held, tmp_path / "state.pt")
    wanted = [step(qat, optimizer, torch.from_numpy(x)) for x in inputs[2:]]

    model, feeds, _ = prepared
    again = prepare(model, feeds(batch=16, seed=0), RECIPE)
    other = torch.optim.AdamW(again.parameter_groups(1e-2))
    held = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(held["model"])
    other.load_state_dict(held["optimizer"])
    assert [step(again, other, torch.from_numpy(x)) for x in inputs[2:]] == wanted


def test_half_precision_trains_and_what_is_deployed_is_what_float32_computes(qat):
    losses = take_steps(qat.module, qat, batches(6, 8), autocast=True)
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in qat.module.parameters())
    assert all(p.grad.dtype == torch.float32 for p in qat.module.parameters())
    assert qat.convert().summary["training"]["agreement"]["typical_db"] > 40


def test_what_is_compared_is_float32_whatever_stands_around_the_module(qat):
    take_steps(qat.module, qat, batches(2, 8))
    wanted = qat.convert().summary["training"]["agreement"]
    whole = qat.module.forward

    def halved(*inputs):  # as accelerate puts it there for mixed precision
        with torch.autocast("cpu", torch.bfloat16):
            return whole(*inputs)

    qat.module.forward = halved
    with torch.autocast("cpu", torch.bfloat16):
        assert qat.convert().summary["training"]["agreement"] == wanted
    assert wanted["sqnr_db"] > 100


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_stay_float32(qat, dtype):
    before = state_of(qat.module)
    with pytest.raises(ConfigValueError, match=r"float32; in (b?float16|float64) .* Autocast"):
        qat.module.to(dtype)
    assert equal(state_of(qat.module), before)
    qat.module.to("cpu", torch.float32)


def test_the_module_is_part_of_a_larger_one(qat):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = qat.module, nn.Linear(10, 2)

        def forward(self, x):
            return self.head(self.body(x))

    both = Both()
    optimizer = torch.optim.SGD(both.parameters(), lr=1e-2)
    before = state_of(qat.module)
    x = torch.from_numpy(batches(1, 8)[0])
    nn.functional.cross_entropy(both(x), torch.arange(8) % 2).backward()
    optimizer.step()
    assert all(p.grad is not None for p in both.parameters())
    assert not equal(state_of(qat.module), before)


@pytest.mark.slow
def test_compiled_it_is_the_same_network():
    w = Weights()
    model, feeds = build(
        """net (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            r = Conv <pads = [1,1,1,1]> (x, w1, b1)
            q = Relu (r)
            y = Conv <pads = [1,1,1,1]> (q, w2)
        }""",
        {"w1": w.conv(4, 3), "b1": w.vector(4), "w2": w.conv(4, 4)},
        normal(3, 8, 8),
    )
    qat = prepare(model, feeds(batch=8, seed=0), RECIPE)
    other = copy.deepcopy(qat)
    inputs = [np.asarray(feeds(batch=8, seed=1 + i)["x"]) for i in range(3)]
    wanted = take_steps(qat.module, qat, inputs)
    compiled = torch.compile(other.module, fullgraph=True)
    try:
        found = take_steps(compiled, other, inputs)
    except torch._inductor.exc.InductorError as e:
        pytest.skip(f"no compiler: {e}")
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert other.convert().summary["training"]["agreement"]["typical_db"] > 40


def _worker(rank: int, folder: str) -> None:
    """Train on one half of every batch, and write the state and what the vendor's module begins with."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    _, _, qat = network()
    half = [x[rank::2] for x in batches(3, 8)]
    take_steps(DistributedDataParallel(qat.module), qat, half)
    state: dict[str, Any] = dict(state_of(qat.module))
    np.savez(f"{folder}/state{rank}.npz", **state)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    config, example = f"{folder}/config{rank}.json", torch.ones(2, 3, 16, 16)
    amct.create_quant_retrain_config(config, net, example)
    content = json.loads(Path(config).read_text(encoding="utf-8")) | {"batch_num": 2}
    Path(config).write_text(json.dumps(content), encoding="utf-8")
    given = DistributedDataParallel(net.train())
    parallel = amct.create_quant_retrain_model(config, given, f"{folder}/record.txt", example)
    assert isinstance(parallel, DistributedDataParallel)
    model, ranges = parallel.module, []
    for x in half:
        parallel(torch.from_numpy(x)).sum().backward()
        ranges.append(next(model.graph.activations.children()).last.tolist())
    np.savez(
        f"{folder}/ranges{rank}.npz", ranges=np.array(ranges), left=[s.left for s in model.starts]
    )
    parallel.eval()
    with torch.no_grad():
        parallel(example)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_one_network_with_one_set_of_ranges(qat, tmp_path):
    multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    first, second = (dict(np.load(tmp_path / f"state{i}.npz")) for i in (0, 1))
    assert equal(first, second)
    take_steps(qat.module, qat, batches(3, 8))
    for name, value in state_of(qat.module).items():  # the same as one process with whole batches
        np.testing.assert_allclose(first[name], value, rtol=2e-3, atol=2e-3, err_msg=name)

    mine, other = (dict(np.load(tmp_path / f"ranges{i}.npz")) for i in (0, 1))
    assert equal(mine, other)
    assert mine["left"].tolist() == [0, 0]
    for (high, low), x in zip(mine["ranges"][:1], batches(1, 8), strict=True):
        assert high == pytest.approx((x[::2].max() + x[1::2].max()) / 2, rel=1e-5)
        assert low == pytest.approx((x[::2].min() + x[1::2].min()) / 2, rel=1e-5)
    assert 'key: "0"' in (tmp_path / "record.txt").read_text(encoding="utf-8")
