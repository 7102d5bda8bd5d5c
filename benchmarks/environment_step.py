"""The cost of one environment step, in microseconds: bare physics, our environments, gymnasium's.

    python -m benchmarks.environment_step

Every column steps the same robot with the same small random actions; the figures are the best of
five repeats of 500 steps, per environment step. "bare" is mj_step alone on our model.
"""

import time
import warnings
from collections.abc import Callable

import gymnasium
import mujoco
import numpy as np

import d4rl_tasks
from d4rl_tasks.environments import available_cores

TASKS = {
    "walker2d-expert-v2": "Walker2d-v4",
    "hopper-expert-v2": "Hopper-v4",
    "halfcheetah-expert-v2": "HalfCheetah-v4",
    "ant-expert-v2": "Ant-v4",
    "antmaze-umaze-v0": None,
}
STEPS = 500
REPEATS = 5
EPISODES = 10


def best_time(step: Callable[[int], None], reset: Callable[[], None]) -> float:
    """Microseconds per call of `step`."""
    times = []
    for _ in range(REPEATS):
        reset()
        start = time.perf_counter()
        for i in range(STEPS):
            step(i)
        times.append(time.perf_counter() - start)
    return min(times) / STEPS * 1e6


def single(environment: gymnasium.Env, actions: np.ndarray) -> float:
    """One environment through gymnasium's API; finished episodes are reset."""

    def step(i: int) -> None:
        if environment.step(actions[i])[2]:
            environment.reset(seed=0)

    return best_time(step, lambda: environment.reset(seed=0))


def bare(environment: gymnasium.Env, actions: np.ndarray) -> float:
    """mj_step on the same model, with the same resets, and nothing else."""
    robot, model, data = (getattr(environment.unwrapped, k) for k in ("robot", "model", "data"))
    goal = environment.unwrapped.target_goal

    def step(i: int) -> None:
        data.ctrl[:] = actions[i] * robot.action_scale
        mujoco.mj_step(model, data, nstep=robot.frame_skip)

    def step_and_reset(i: int) -> None:
        step(i)
        if robot.terminated(data.qpos, data.qvel, goal):
            environment.reset(seed=0)

    return best_time(step_and_reset, lambda: environment.reset(seed=0))


def lockstep(name: str, actions: np.ndarray) -> float:
    """Ten episodes in lockstep on all cores, per environment step."""
    environment = d4rl_tasks.make_vec(name, EPISODES)

    def step(i: int) -> None:
        environment.step(np.tile(actions[i], (EPISODES, 1)))
        if not environment.active.all():
            environment.reset(seed=0, options={"reset_mask": ~environment.active})

    return best_time(step, lambda: environment.reset(seed=0)) / EPISODES


def main() -> None:
    """Measure every robot and print a Markdown table."""
    warnings.filterwarnings("ignore")
    print(f"| task | bare | ours | gymnasium -v4 | ours, {EPISODES} on {available_cores()} cores |")
    print("|---|---|---|---|---|")
    for name, theirs in TASKS.items():
        ours = d4rl_tasks.make(name)
        shape = (STEPS, *ours.action_space.shape)
        actions = np.random.default_rng(0).uniform(-0.3, 0.3, shape).astype(np.float32)
        cells = [bare(ours, actions), single(ours, actions)]
        cells.append(single(gymnasium.make(theirs), actions) if theirs else float("nan"))
        cells.append(lockstep(name, actions))
        print(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
