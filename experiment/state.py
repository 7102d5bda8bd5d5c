"""All of a run that changes while it trains, as a checkpoint holds it."""

import secrets
import time
from pathlib import Path
from typing import Any

from experiment.checks import checkpoint_difference
from experiment.errors import RunError
from experiment.generators import generator_states, restore_generators
from experiment.losses import LossLog
from experiment.results import Results
from experiment.settings import Settings, differences
from speed import products
from utils import Policy, ReplayBuffer


class RunState:
    """The state of a run.

    Attributes:
        losses: of the train steps since the last evaluation.
        evaluation_due: the last train step has not been evaluated yet.
        run_id: the same in all processes that resume one run.

    Raises:
        RunError: a part of the policy cannot be saved.
    """

    def __init__(
        self, settings: Settings, policy: Policy, replay_buffer: ReplayBuffer, results: Results
    ):
        self.settings = settings
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.results = results
        self.losses = LossLog()
        self.evaluation_due = False
        self.run_id = secrets.token_hex(4)
        self._started = time.monotonic()
        try:
            policy.state_dict()
        except ValueError as error:  # better now than at the first checkpoint
            raise RunError(str(error)) from error

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, in this and earlier processes."""
        return time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """The content of a checkpoint; `losses.read` comes first."""
        return {
            "settings": self.settings,
            "policy": self.policy.state_dict(),
            "losses": self.losses.state_dict(),
            "results": self.results.state_dict(),
            "generators": generator_states(self.policy.device, self.replay_buffer),
            "evaluation_due": self.evaluation_due,
            "seconds": self.seconds,
            "run_id": self.run_id,
            "products": products.library(),
        }

    def load_state_dict(self, path: Path, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, read from the file `path`.

        Raises:
            RunError: it was written with other settings, by another version of the source, or on
                another device.
        """
        saved = state.get("settings")
        changed = differences(saved if isinstance(saved, dict) else {}, self.settings)
        generators = generator_states(self.policy.device, self.replay_buffer)
        problem = "; ".join(changed) or checkpoint_difference(state, self.policy, generators)
        if problem:
            raise RunError(
                f"{path} does not fit this run ({problem}): undo the change, or start over with "
                "--fresh, which sets the checkpoint aside"
            )
        self.policy.load_state_dict(state["policy"])
        self.losses.load_state_dict(state["losses"])
        self.results.load_state_dict(state["results"])
        restore_generators(state["generators"], self.policy.device, self.replay_buffer)
        self.evaluation_due = state["evaluation_due"]
        self._started = time.monotonic() - state["seconds"]
        self.run_id = state["run_id"]
        products.use(state["products"])
