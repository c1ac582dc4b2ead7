"""Loops that users have: PyTorch Lightning, the Trainer of transformers, accelerate. Each is skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.qat.quick import batches, network

pytestmark = pytest.mark.filterwarnings("ignore")  # of these packages


@pytest.fixture
def qat():
    return network()[2]


def samples():
    """Return inputs (32, channels, height, width)."""
    return torch.from_numpy(np.concatenate(batches(4, 8)))


def loss_of(qat, inputs, answer):
    with torch.no_grad():
        wanted = 1.1 * qat.teacher(inputs)
    return (answer.float() - wanted).square().mean()


def check_deployed(qat, before):
    """Check that it learned, and that what is deployed is what the module computes in float32."""
    x = samples()
    qat.module.eval()
    with torch.no_grad():
        after = loss_of(qat, x, qat.module(x)).item()
    assert after < before
    assert qat.convert().summary["training"]["agreement"]["sqnr_db"] > 100


def start_of(qat):
    with torch.no_grad():
        return loss_of(qat, samples(), qat.module(samples())).item()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(qat, precision, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # of another test
    before = start_of(qat)
    accelerator = accelerate.Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=2
    )
    module, optimizer, loader = accelerator.prepare(
        qat.module,
        torch.optim.AdamW(qat.parameter_groups(1e-2)),
        DataLoader(TensorDataset(samples()), batch_size=4),
    )
    for (x,) in loader:
        with accelerator.accumulate(module):
            accelerator.backward(loss_of(qat, x, module(x)))
            accelerator.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.save_state(str(tmp_path))
    accelerator.load_state(str(tmp_path))
    assert accelerator.unwrap_model(module) is qat.module
    check_deployed(qat, before)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning(qat, precision, tmp_path):
    lightning = pytest.importorskip("lightning")
    before = start_of(qat)

    class Training(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.net = qat.module

        def training_step(self, batch, index):
            return loss_of(qat, batch[0], self.net(batch[0]))

        def configure_optimizers(self):
            return torch.optim.AdamW(qat.parameter_groups(1e-2))

    training = Training()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        gradient_clip_val=1.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(training, DataLoader(TensorDataset(samples()), batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    training.load_state_dict(held["state_dict"])
    check_deployed(qat, before)


class _Rows(Dataset):
    """Samples as the Trainer wants them: a mapping by the names of the arguments."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"x": samples()[index]}


@pytest.mark.parametrize("half", [False, True])
def test_trainer_of_transformers(qat, half, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    before = start_of(qat)

    class Distilling(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = qat.module

        def forward(self, x):
            answer = self.net(x)
            return {"loss": loss_of(qat, x, answer), "logits": answer}

    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=half,
        save_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(qat.parameter_groups(1e-2))
    trainer = transformers.Trainer(
        Distilling(), arguments, train_dataset=_Rows(), optimizers=(optimizer, None)
    )
    trainer.train()
    assert (tmp_path / "checkpoint-8" / "model.safetensors").is_file()
    check_deployed(qat, before)
