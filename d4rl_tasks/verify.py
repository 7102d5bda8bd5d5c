"""Measure on a D4RL file how closely the physics here agrees with the physics that recorded it.

    python -m d4rl_tasks.verify FILE --env walker2d-expert-v2

Every recorded state (`infos/qpos`, `infos/qvel`) is stepped once with its recorded action, and the
result compared with the next recorded state, with and without the corrections of `physics.py`.
"""

import sys
from pathlib import Path

import mujoco
import numpy as np

from d4rl_tasks.command_line import Parser, number, run_program
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.hdf5 import read_arrays
from d4rl_tasks.robots import Robot, make_robot
from d4rl_tasks.tasks import get_task

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
DEFAULT_SAMPLES = 2_000


def one_step_errors(
    robot: Robot,
    model: mujoco.MjModel,
    qpos: np.ndarray,
    qvel: np.ndarray,
    actions: np.ndarray,
    next_qpos: np.ndarray,
    next_qvel: np.ndarray,
) -> np.ndarray:
    """Largest absolute difference in any position or velocity after one environment step.

    Args:
        robot: whose step it is.
        model: what to step.
        qpos, next_qpos: (n, nq) before and after, in metres, radians and quaternions.
        qvel, next_qvel: (n, nv) likewise, per second.
        actions: (n, A), clipped to [-1, 1].

    Returns:
        (n,) float64.
    """
    data = mujoco.MjData(model)
    errors = np.empty(len(qpos))
    for i in range(len(qpos)):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        robot.simulate(model, data, np.clip(actions[i], -1, 1) * robot.action_scale)
        errors[i] = max(
            np.abs(data.qpos - next_qpos[i]).max(), np.abs(data.qvel - next_qvel[i]).max()
        )
    return errors


def verify_file(path: Path, name: str, samples: int = DEFAULT_SAMPLES) -> dict[str, np.ndarray]:
    """One-step errors on randomly chosen rows of a D4RL file.

    Args:
        path: an HDF5 file with `infos/qpos`, `infos/qvel`, `actions` and `terminals`.
        name: the task it was recorded on.
        samples: how many rows to try; all, if the file has fewer.

    Returns:
        Two arrays (samples,) float64, "D4RL's physics" and "uncorrected".

    Raises:
        D4RLTaskError: the file cannot be used.
    """
    robot = make_robot(get_task(name))
    model = robot.model()
    shapes = {
        "actions": (model.nu,),
        "infos/qpos": (model.nq,),
        "infos/qvel": (model.nv,),
        "terminals": (),
    }
    arrays = read_arrays(path, shapes, optional={"timeouts": ()})
    ends = arrays["terminals"].astype(bool)
    if "timeouts" in arrays:
        ends |= arrays["timeouts"].astype(bool)
    rows = np.flatnonzero(~ends[:-1])
    if not len(rows):
        raise D4RLTaskError(f"{path}: no row is followed by another of its episode")
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:samples])
    qpos, qvel = arrays["infos/qpos"].astype(float), arrays["infos/qvel"].astype(float)
    recorded = (qpos[rows], qvel[rows], arrays["actions"][rows], qpos[rows + 1], qvel[rows + 1])
    return {
        "D4RL's physics": one_step_errors(robot, model, *recorded),
        "uncorrected": one_step_errors(robot, robot.spec().compile(), *recorded),
    }


def format_errors(errors: dict[str, np.ndarray]) -> str:
    """A table of the distributions' quantiles."""
    heads = ["min", *(f"{quantile:.0%}" for quantile in QUANTILES[1:-1]), "max"]
    lines = [f"{'one-step error':<16}" + "".join(f"{head:>10}" for head in heads)]
    for label, values in errors.items():
        quantiles = np.quantile(values, QUANTILES)
        lines.append(f"{label:<16}" + "".join(f"{value:>10.1e}" for value in quantiles))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m d4rl_tasks.verify",
        description="Measure how closely the physics here agrees with a D4RL file's.",
    )
    parser.add_argument("file", type=Path, help="HDF5 with infos/qpos, infos/qvel and actions")
    parser.add_argument("--env", required=True, help="the task, e.g. walker2d-expert-v2")
    parser.add_argument(
        "--samples",
        type=number(int, 1),
        default=DEFAULT_SAMPLES,
        help="rows to try, chosen at random (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    return run_program(lambda: _verify(options.file, options.env, options.samples))


def _verify(path: Path, env: str, samples: int) -> None:
    errors = verify_file(path, env, samples)
    count = len(errors["uncorrected"])
    print(f"{path}: {count} steps of {env}, MuJoCo {mujoco.mj_versionString()}")
    print(format_errors(errors))


if __name__ == "__main__":
    sys.exit(main())
