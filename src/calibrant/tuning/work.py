"""What runs of a model amount to, counted in samples that went through the whole model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Work"]


@dataclass(slots=True, eq=False)
class Work:
    """Runs so far.

    Args:
        samples: Samples that went through the whole model; parts of it count by their multiplications.
        probe: Samples of the probe, in which `passes` are counted.
    """

    samples: float = 0.0
    probe: int = 0

    def whole(self, samples: int) -> None:
        """Count samples that went through the whole model, float or simulated."""
        self.samples += samples

    def part(self, samples: int, share: float) -> None:
        """Count samples that went through a part of the model.

        Args:
            samples: How many.
            share: Multiplications of the part over those of the model.
        """
        self.samples += samples * share

    @property
    def passes(self) -> float:
        """Passes of the probe through the whole model that all runs amount to."""
        return self.samples / self.probe if self.probe else 0.0
