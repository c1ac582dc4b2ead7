"""What everything that runs a model needs to know: on which provider, with how many threads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CPU", "Runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where models run.

    Args:
        provider: Execution provider: `cpu`, `cuda`, … (`runtime.session.PROVIDERS`).
        threads: Threads inside an operator; None leaves the number to ONNX Runtime.
    """

    provider: str = "cpu"
    threads: int | None = None


#: The processor, with as many threads as ONNX Runtime takes by itself.
CPU = Runtime()
