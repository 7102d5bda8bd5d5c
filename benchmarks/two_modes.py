"""How does each policy act where two actions are equally good?

    python -m benchmarks.two_modes [--steps 5000] [--out docs]

One-step episodes at random states of 17 coordinates, with actions of 6: half of the data's actions
are at one of two modes, all 0.7 or all -0.7, whose reward is 1; the others are anywhere. Policies
are small (64 units a layer, learning rate 1e-3). Writes `two_modes.png` (which needs matplotlib):
the actions of each policy over the data, first two coordinates. Prints how many of its actions are
within 0.15 of a mode in all coordinates, of which mode, and their mean reward.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from d4rl_tasks.command_line import Parser
from d4rl_tasks.files import atomic_path
from experiment.options import POLICIES, policy_class, policy_module
from reports.style import RC, policy_colour
from utils import Policy, ReplayBuffer, RunSpec

STATES, ACTIONS = 17, 6
MODES = np.array([[0.7] * ACTIONS, [-0.7] * ACTIONS])
NEAR = 0.15
TRANSITIONS, UNSEEN = 20_000, 500


def reward(actions: np.ndarray) -> np.ndarray:
    """1 at both modes and, by the distance's root mean square, less elsewhere: (n, A) -> (n,)."""
    distance = np.sqrt(((actions[:, None] - MODES) ** 2).mean(axis=-1)).min(axis=1)
    return np.exp(-((distance / 0.3) ** 2))


def near_modes(actions: np.ndarray) -> np.ndarray:
    """Whether actions are at each of the modes: (n, A) -> (n, 2)."""
    return (np.abs(actions[:, None] - MODES) < NEAR).all(axis=-1)


def make_data() -> tuple[np.ndarray, np.ndarray]:
    """States (n, S) and actions (n, A).

    With both modes equally frequent and equally good, their mean is what a unimodal policy learns.
    The modes must lie well apart: one component for both costs the regression their squared
    distance, summed over the action's coordinates, and two components cost KL(q || p) = log 2.
    """
    rng = np.random.default_rng(0)
    states = rng.normal(size=(TRANSITIONS, STATES))
    at_modes = rng.choice(MODES, TRANSITIONS) + rng.normal(0, 0.05, (TRANSITIONS, ACTIONS))
    anywhere = rng.uniform(-1, 1, (TRANSITIONS, ACTIONS))
    return states, np.where(rng.random((TRANSITIONS, 1)) < 0.5, at_modes, anywhere)


def make_buffer() -> ReplayBuffer:
    """The data as one-step episodes."""
    states, actions = make_data()
    return ReplayBuffer(states, actions, states, reward(actions), np.ones(TRANSITIONS))


def train(name: str, steps: int, **options) -> Policy:
    """A policy of small networks, with a learning rate to match, trained on the data."""
    torch.manual_seed(0)
    small = {"hidden": (64,) * (3 if name == "DMPO_ant" else 2), "learning_rate": 1e-3}
    hyperparameters = policy_module(name).Hyperparameters(**small, **options)
    policy = policy_class(name)(RunSpec(STATES, ACTIONS, train_steps=steps), hyperparameters)
    buffer = make_buffer()
    for _ in range(steps):
        policy.train(buffer, 256)
    return policy


def draw(actions: dict[str, np.ndarray]) -> Figure:
    """The policies' actions over the data's, a panel for each policy."""
    _, data = make_data()
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 6.2), layout="constrained")
        for axes, (name, chosen) in zip(figure.subplots(2, 3).flat, actions.items(), strict=True):
            axes.plot(*data[:1_500, :2].T, ".", color="#bbbbbb", ms=2, label="data")
            axes.plot(*chosen[:, :2].T, ".", color=policy_colour(name), ms=5, label=name)
            share = near_modes(chosen).any(axis=1).mean()
            axes.set(title=f"{name}: {share:.0%} at a mode", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
            axes.set_aspect("equal")
        figure.supxlabel("action, first coordinate (grey: the data's)", fontsize=9)
        figure.supylabel("action, second coordinate", fontsize=9)
    return figure


def line(name: str, actions: np.ndarray) -> str:
    """A line of the table."""
    at = near_modes(actions)
    return (
        f"| {name} | {at.any(axis=1).mean():.0%} | {at[:, 0].mean():.0%} | {at[:, 1].mean():.0%} "
        f"| {reward(actions).mean():.2f} |"
    )


def main() -> None:
    """Train all policies, print the table and draw the figure."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=5_000, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    states = np.random.default_rng(1).normal(size=(UNSEEN, STATES))
    actions = {}
    print("| policy | at a mode | at 0.7 | at -0.7 | reward |")
    print("|---|---|---|---|---|")
    for name in POLICIES:
        actions[name] = train(name, arguments.steps).select_action(states)
        print(line(name, actions[name]), flush=True)
    with atomic_path(arguments.out / "two_modes.png") as temporary, matplotlib.rc_context(RC):
        draw(actions).savefig(temporary, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
