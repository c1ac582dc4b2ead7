"""Recurrent networks, step by step: LSTM, GRU and RNN.

    x [time, batch, in], weights [directions, gates x hidden, in], state [directions, batch, hidden]

What the weights make of the inputs is worked out for all steps at once; each step adds what they make of the state.
A sequence that is shorter than others keeps its state where it has ended, and answers 0 there.

Source: ONNX, Operator Schemas, LSTM, GRU, RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from calibrant.errors import UnsupportedError
from calibrant.qat.operators.registry import operator

__all__: list[str] = []

Function = Callable[[Tensor], Tensor]

#: (what the inputs make of the gates, the state) -> the state behind the step; its first part is the answer.
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

_FUNCTIONS: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": F.softsign,
    "softplus": F.softplus,
}


@operator("LSTM", several=True)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    first: Tensor | None = None,
    first_cell: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activations: tuple[str, ...] = (),
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; the gates stand as input, output, forget, cell."""
    wanted = _functions(activations, ("Sigmoid", "Tanh", "Tanh"), w.shape[0])

    def cell_of(d: int) -> Cell:
        gate, inner, outer = wanted[d]
        at_input, at_output, at_forget = (
            peepholes[d].chunk(3) if peepholes is not None else (0.0, 0.0, 0.0)
        )

        def cell(given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            h, c = state
            i, o, f, g = (given + h @ r[d].t()).chunk(4, dim=1)
            entered = gate(_within(i + at_input * c, clip))
            kept = 1 - entered if input_forget else gate(_within(f + at_forget * c, clip))
            c = kept * c + entered * inner(_within(g, clip))
            return gate(_within(o + at_output * c, clip)) * outer(c), c

        return cell

    bias = b[:, : b.shape[1] // 2] + b[:, b.shape[1] // 2 :] if b is not None else None
    y, ends = _run(
        x, w, bias, lengths, [first, first_cell], cell_of, hidden_size, direction, layout
    )
    return y, ends[0], ends[1]


@operator("GRU", several=True)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    first: Tensor | None = None,
    *,
    activations: tuple[str, ...] = (),
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent units; the gates stand as update, reset, hidden."""
    wanted = _functions(activations, ("Sigmoid", "Tanh"), w.shape[0])
    own = b[:, b.shape[1] // 2 :] if b is not None else None

    def cell_of(d: int) -> Cell:
        gate, inner = wanted[d]
        gates, hidden = r[d].split((2 * hidden_size, hidden_size))
        added = own[d] if own is not None else r.new_zeros(3 * hidden_size)
        to_gates, to_hidden = added.split((2 * hidden_size, hidden_size))

        def cell(given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = state
            outer, into = given.split((2 * hidden_size, hidden_size), dim=1)
            z, reset = gate(_within(outer + h @ gates.t() + to_gates, clip)).chunk(2, dim=1)
            if linear_before_reset:
                into = into + reset * (h @ hidden.t() + to_hidden)
            else:
                into = into + (reset * h) @ hidden.t() + to_hidden
            return ((1 - z) * inner(_within(into, clip)) + z * h,)

        return cell

    bias = b[:, : b.shape[1] // 2] if b is not None else None
    y, ends = _run(x, w, bias, lengths, [first], cell_of, hidden_size, direction, layout)
    return y, ends[0]


@operator("RNN", several=True)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    first: Tensor | None = None,
    *,
    activations: tuple[str, ...] = (),
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int,
    layout: int = 0,
) -> tuple[Tensor, Tensor]:
    """A state that is an activation function of input and state."""
    wanted = _functions(activations, ("Tanh",), w.shape[0])

    def cell_of(d: int) -> Cell:
        def cell(given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (wanted[d][0](_within(given + state[0] @ r[d].t(), clip)),)

        return cell

    bias = b[:, :hidden_size] + b[:, hidden_size:] if b is not None else None
    y, ends = _run(x, w, bias, lengths, [first], cell_of, hidden_size, direction, layout)
    return y, ends[0]


def _run(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    firsts: Sequence[Tensor | None],
    cell_of: Callable[[int], Cell],
    hidden: int,
    direction: str,
    layout: int,
) -> tuple[Tensor, list[Tensor]]:
    """Walk each direction through time, and return all answers and the last states."""
    if layout:
        raise UnsupportedError("layout 1, with the batch in front.")
    steps, batch = x.shape[:2]
    answers, ends = [], []
    for d in range(w.shape[0]):
        given = x @ w[d].t()  # (time, batch, gates)
        given = given + bias[d] if bias is not None else given
        state = tuple(s[d] if s is not None else x.new_zeros(batch, hidden) for s in firsts)
        cell, found = cell_of(d), [x.new_zeros(batch, hidden)] * steps
        backwards = direction == "reverse" or d == 1
        for t in reversed(range(steps)) if backwards else range(steps):
            new = cell(given[t], state)
            if lengths is None:
                state, found[t] = new, new[0]
                continue
            alive = (t < lengths)[:, None]
            state = tuple(torch.where(alive, n, s) for n, s in zip(new, state, strict=True))
            found[t] = torch.where(alive, new[0], torch.zeros_like(new[0]))
        answers.append(torch.stack(found))
        ends.append(state)
    return torch.stack(answers, dim=1), [torch.stack(s) for s in zip(*ends, strict=True)]


def _within(x: Tensor, clip: float | None) -> Tensor:
    return x if not clip else x.clamp(-clip, clip)


def _functions(
    named: Sequence[str], default: Sequence[str], directions: int
) -> list[tuple[Function, ...]]:
    """Return the activation functions of each direction."""
    names = [n.lower() for n in named] or [n.lower() for n in default] * directions
    unknown = [n for n in names if n not in _FUNCTIONS]
    if unknown:
        raise UnsupportedError(
            f"the activation function '{unknown[0]}'; known are {', '.join(sorted(_FUNCTIONS))}."
        )
    size = len(default)
    return [
        tuple(_FUNCTIONS[n] for n in names[d * size : (d + 1) * size]) for d in range(directions)
    ]
