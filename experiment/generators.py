"""The random generators of a run, saved and restored with it."""

import random
from typing import Any, cast

import numpy as np
import torch

from experiment.errors import RunError
from utils import ReplayBuffer


def seed_everything(seed: int) -> None:
    """Seed the global generators; evaluation and replay sampling have seeds of their own."""
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (code that a user adds to a policy may draw from it)


def generator_states(device: torch.device, replay_buffer: ReplayBuffer) -> dict[str, Any]:
    """The states of all random generators of a run."""
    name, keys, *rest = cast(tuple, np.random.get_state())  # noqa: NPY002
    states = {
        "random": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "replay_buffer": replay_buffer.generator.get_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(
    states: dict[str, Any], device: torch.device, replay_buffer: ReplayBuffer
) -> None:
    """Set all random generators to what `generator_states` returned.

    Raises:
        RunError: a generator refuses its state.
    """
    try:
        random.setstate(states["random"])
        np.random.set_state(states["numpy"])  # noqa: NPY002
        torch.set_rng_state(states["torch"])
        replay_buffer.generator.set_state(states["replay_buffer"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"a checkpoint's random generators cannot be restored ({error})") from error
