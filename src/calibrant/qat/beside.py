"""The float network trained as long, with the same samples, loss and schedule: what of a gain is not due to quantizers.

With the loss `distill` it stays as it is: the loss of the float network against itself is 0.
"""

from __future__ import annotations

import copy

import onnx_ir as ir
import torch
from torch.fx import GraphModule

from calibrant.qat.answers import Answers
from calibrant.qat.learned import with_learned
from calibrant.qat.loop import Loop
from calibrant.qat.losses import Distill
from calibrant.qat.rates import float_groups
from calibrant.qat.schedule import rate_share

__all__ = ["float_trained"]


def float_trained(loop: Loop) -> ir.Model:
    """Return the float model, trained as a run was.

    Args:
        loop: The run, at its end.
    """
    asked, qat = loop.asked, loop.qat
    model = qat.solution.model.clone()
    if isinstance(asked.loss, Distill):
        return model
    teacher = qat.teacher.to(asked.device)
    module: GraphModule = copy.deepcopy(teacher).train()
    module.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        float_groups(list(module.parameters()), asked.lr, asked.weight_decay), eps=1e-12
    )
    rates = [float(g["lr"]) for g in optimizer.param_groups]
    answers = Answers(teacher, len(loop.data), keeps=asked.augment is None)
    step, steps = 0, loop.state.step
    while step < steps:
        epoch, first = divmod(step, loop.per_epoch)
        for batch in loop.data.batches(
            asked.size, qat.inputs, seed=asked.seed, epoch=epoch, first=first
        ):
            rows, inputs, extras = loop.moved(*batch, step=step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * rate_share(step, steps)
            with loop.placed():
                answer = module(*inputs)
                outputs = answer if isinstance(answer, tuple) else (answer,)
                loss = asked.loss(outputs, answers.of(rows, inputs), extras)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            qat.progress.step(step, steps)
            if step == steps:
                break
    with_learned(model, module)
    qat.teacher.to("cpu")
    return model
