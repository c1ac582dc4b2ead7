"""One arena for the tensors of all sessions.

A session has an arena of its own, which grows to the most that a run of it needs and stays there. Of the sessions that are
open at once only one runs, so they can share one. Weights of a session lie outside of it and go when it is closed.

Source: ONNX Runtime, "Share allocator(s) between sessions", and onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["share_arena", "shrink_arena"]

#: The arena grows by what is asked for, not to the next power of two.
_AS_ASKED = 1

logger = logging.getLogger(__name__)


def share_arena(options: ort.SessionOptions) -> None:
    """Let a session on the CPU that is opened with these options take its tensors from the common arena."""
    if _registered():
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")


def shrink_arena() -> ort.RunOptions | None:
    """Return options of a run that gives back, at its end, what of the arena nobody uses; None where it has none."""
    import onnxruntime as ort

    if not _registered():
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@cache
def _registered() -> bool:
    """Make the arena; return whether there is one."""
    import onnxruntime as ort

    where = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    try:
        ort.create_and_register_allocator(
            where, ort.OrtArenaCfg({"arena_extend_strategy": _AS_ASKED})
        )
    except Exception:  # the process has one for its own sessions: that one stays
        logger.debug("sessions keep arenas of their own", exc_info=True)
        return False
    return True
