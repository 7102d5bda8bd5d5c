"""The fastest train steps that a device has: CUDA graphs on a GPU, compiled programs on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from speed.checked import CheckedTraining
from speed.compiled import CompiledTraining
from speed.cuda_graphs import CapturedTraining

if TYPE_CHECKING:
    from utils import Policy, ReplayBuffer


def faster_training(
    policy: Policy,
    replay_buffer: ReplayBuffer,
    batch_size: int,
    note: Callable[[str], None],
    *,
    captures: bool,
    compiles: bool,
) -> CheckedTraining | None:
    """A way to train faster than step by step, or None.

    Args:
        captures: as CUDA graphs, on a GPU.
        compiles: as programs, on a CPU.
        note: prints a line.
    """
    parts = policy, replay_buffer, batch_size, note
    if policy.device.type == "cuda":
        if compiles:
            note("warning: --compile is ignored on a GPU, which has CUDA graphs")
        return CapturedTraining(*parts) if captures else None
    if not captures:
        note("warning: --no_cuda_graph is ignored on a CPU")
    if not compiles:
        return None
    training = CompiledTraining(*parts)
    note(f"compiling {training.cycle} train steps: 10 to 40 seconds, less the next time")
    return training
