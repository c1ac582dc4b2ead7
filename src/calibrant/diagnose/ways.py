"""How the losses of layers come about: from runs with each layer changed alone, or from gradients of all of them together."""

from __future__ import annotations

from calibrant.errors import ConfigValueError, did_you_mean

__all__ = ["BY", "check_by"]

BY = ("runs", "gradient")


def check_by(by: str, option: str) -> None:
    """Check the name of a way.

    Args:
        by: What was given.
        option: How that is called where it was given.

    Raises:
        ConfigValueError: There is no such way.
    """
    if by not in BY:
        raise ConfigValueError(
            f"{option} is '{by}'; it is {' or '.join(BY)}." + did_you_mean(by, BY)
        )
