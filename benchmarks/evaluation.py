"""The cost of an evaluation, compared with the physics of its episodes alone.

    python -m benchmarks.evaluation [--policies DMPO AWAC] [--threads 2]

Ten episodes of 1,000 steps of walker2d: actions of a behaviour of this project
recorded first, and then given to the same episodes by turns: to nothing but `mj_step` ("physics"),
and to `experiment.evaluation.evaluate`. Its policy chooses its own actions, which the recorded ones
replace, so that every episode lasts. The times are the least of several repeats.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import mujoco
import numpy as np
import torch

import d4rl_tasks
from benchmarks.train_step import POLICIES, make_policy
from d4rl_tasks.command_line import Parser
from d4rl_tasks.synthetic.behaviours import load_behaviour
from experiment.evaluation import Normalizer, episode_seeds, evaluate

TASK = "walker2d-expert-v2"
BEHAVIOUR = "walker2d/0500000.npz"
STATES, ACTIONS = 17, 6
SEED = 1
EVAL_EPISODES = 10
SEEDS = episode_seeds(SEED, EVAL_EPISODES)


def record_actions() -> np.ndarray:
    """Actions (steps, episodes, A) of a behaviour under which none of these episodes ends early."""
    behaviour = load_behaviour(BEHAVIOUR)
    environment = d4rl_tasks.make_vec(TASK, EVAL_EPISODES)
    observations, _ = environment.reset(seed=SEEDS)
    actions = []
    while environment.active.all():
        actions.append(behaviour.mean_action(observations))
        observations, *_ = environment.step(actions[-1])
    environment.close()
    return np.array(actions)


class Recorded:
    """A policy that works out its own actions, and then gives the recorded ones."""

    def __init__(self, policy, actions: np.ndarray):
        self._policy, self._actions = policy, iter(actions)

    def select_action(self, states: np.ndarray) -> np.ndarray:
        """(n, S) -> (n, A)."""
        self._policy.select_action(states)
        return next(self._actions)


def time_evaluation(policy, actions: np.ndarray, threads: int) -> float:
    """Seconds of `evaluate`."""
    backend = SimpleNamespace(
        make_vec=lambda name, count: d4rl_tasks.make_vec(name, count, threads=threads)
    )
    normalizer = Normalizer(np.zeros(STATES, np.float32), np.ones(STATES, np.float32))
    start = time.perf_counter()
    evaluate(Recorded(policy, actions), normalizer, TASK, EVAL_EPISODES, SEED, backend=backend)
    return time.perf_counter() - start


def time_physics(actions: np.ndarray, threads: int) -> float:
    """Seconds of the same episodes' `mj_step` alone, shared among threads that never wait."""
    environment = d4rl_tasks.make_vec(TASK, EVAL_EPISODES)
    environment.reset(seed=SEEDS)
    model, frame_skip = environment.model, environment.robot.frame_skip
    controls = np.clip(actions.astype(float), -1, 1) * environment.robot.action_scale

    def run(share: np.ndarray) -> None:
        for step in controls:
            for index in share:
                data = environment.datas[index]
                data.ctrl[:] = step[index]
                mujoco.mj_step(model, data, nstep=frame_skip)

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(run, np.array_split(np.arange(EVAL_EPISODES), threads)))
        seconds = time.perf_counter() - start
    environment.close()
    return seconds


def main() -> None:
    """Measure the policies and print a Markdown table."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    actions = record_actions()
    sizes = {"hidden": 256, "components": 8, "state_dim": STATES, "action_dim": ACTIONS}
    policies = {name: make_policy(name, SimpleNamespace(**sizes)) for name in arguments.policies}
    rows = []
    for _ in range(arguments.repeats):
        row = [time_physics(actions, arguments.threads)]
        rows.append(
            row + [time_evaluation(p, actions, arguments.threads) for p in policies.values()]
        )
    physics, *evaluations = np.min(rows, 0)
    steps = actions.shape[0] * actions.shape[1]
    print("| policy | environment steps/s | times its physics |")
    print("|---|---|---|")
    print(f"| physics alone | {steps / physics:,.0f} | 1 |")
    for name, seconds in zip(policies, evaluations, strict=True):
        print(f"| {name} | {steps / seconds:,.0f} | {seconds / physics:.2f} |")


if __name__ == "__main__":
    main()
