"""Generate a synthetic dataset for a D4RL task by rolling out behaviour policies.

    python -m d4rl_tasks.synthetic.generate walker2d-expert-v2 [--transitions N] [--out FILE]

The file has D4RL's format and every key of D4RL's v2 files, and says in its attributes that it is
generated. It depends on the task, the behaviour, the number of transitions and the seed alone.
"""

import argparse
import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import mujoco
import numpy as np
from tqdm import tqdm

from d4rl_tasks.command_line import Parser, number, run_program
from d4rl_tasks.datasets import generate_once
from d4rl_tasks.environments import LockstepVectorEnv, make_vec
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import atomic_path, exists, synthetic_path
from d4rl_tasks.robots import task_sizes
from d4rl_tasks.synthetic.behaviours import Behaviour, load_behaviour, read_manifest
from d4rl_tasks.synthetic.navigation import Navigator, States, WaypointController
from d4rl_tasks.synthetic.policy_files import LAYERS, read_policy
from d4rl_tasks.tasks import Task, get_task, normalized_score

# The default is D4RL's own size, except for antmaze (1,000,000 rows in D4RL) and ant-medium-expert
# (2,000,000): two cores must generate any dataset in less than three minutes.
TRANSITIONS, MEDIUM_EXPERT_TRANSITIONS = 1_000_000, 2_000_000
ANTMAZE_TRANSITIONS, ANT_MEDIUM_EXPERT_TRANSITIONS = 600_000, 1_500_000
REPLAY_TRANSITIONS = {
    "halfcheetah": 202_000,
    "hopper": 402_000,
    "walker2d": 302_000,
    "ant": 302_000,
}
MAZE2D_TRANSITIONS = {
    "open": 1_000_000,
    "umaze": 1_000_000,
    "medium": 2_000_000,
    "large": 4_000_000,
}
LANES = 32
SHORTEST_LANE = 5_000
ANTMAZE_BEHAVIOUR = "antdir/0400000.npz"
MAZE_ALGORITHMS = {"antmaze": "SAC and a planner", "maze2d": "waypoint controller"}
MOST_TRANSITIONS = 1_000_000_000
COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
NUMBER_FORMAT = {"terminals": bool, "timeouts": bool, "infos/qpos": float, "infos/qvel": float}


@dataclass(frozen=True)
class Lane:
    """One stream of episodes: `length` transitions by one behaviour (None: see `behaviours_of`)."""

    behaviour: Behaviour | None
    length: int


def behaviours_of(task: Task) -> list[Behaviour | None]:
    """The behaviours whose transitions make up a task's dataset, in their order in the file.

    None stands for random actions, and for maze2d's controller, which needs no training.
    """
    if task.robot == "antmaze":
        return [load_behaviour(ANTMAZE_BEHAVIOUR)]
    if task.quality == "random" or task.robot == "maze2d":
        return [None]
    entries = read_manifest()[task.robot]
    roles = {entry["role"]: index for index, entry in enumerate(entries) if "role" in entry}
    chosen = {
        "medium": [entries[roles["medium"]]],
        "expert": [entries[roles["expert"]]],
        "medium-expert": [entries[roles["medium"]], entries[roles["expert"]]],
        "medium-replay": entries[: roles["medium"] + 1],
        "full-replay": entries,
    }[task.quality]
    return [load_behaviour(entry["file"]) for entry in chosen]


def default_transitions(task: Task) -> int:
    """Rows of a task's synthetic dataset, unless others are asked for."""
    if task.robot == "antmaze":
        return ANTMAZE_TRANSITIONS
    if task.robot == "maze2d":
        return MAZE2D_TRANSITIONS[task.maze.removeprefix("eval-")]
    if task.quality == "medium-expert":
        is_ant = task.robot == "ant"
        return ANT_MEDIUM_EXPERT_TRANSITIONS if is_ant else MEDIUM_EXPERT_TRANSITIONS
    if task.quality == "medium-replay":
        return REPLAY_TRANSITIONS[task.robot]
    return TRANSITIONS


def plan_lanes(behaviours: list[Behaviour | None], transitions: int) -> list[Lane]:
    """Share transitions evenly among behaviours, and each one's among lanes of similar length."""
    lanes = []
    for share, behaviour in zip(_even_parts(transitions, len(behaviours)), behaviours, strict=True):
        count = max(1, min(LANES // len(behaviours), share // SHORTEST_LANE))
        lanes += [Lane(behaviour, part) for part in _even_parts(share, count) if part]
    return lanes


def _even_parts(total: int, count: int) -> list[int]:
    return [total // count + (index < total % count) for index in range(count)]


class SamplingController:
    """Each lane acts by sampling from its behaviour, or uniformly where it has none."""

    def __init__(self, lanes: list[Lane], action_size: int, rngs: list[np.random.Generator]):
        self._rngs = rngs
        self._action_size = action_size
        self._groups: dict[str | None, list[int]] = {}
        for index, lane in enumerate(lanes):
            name = lane.behaviour.name if lane.behaviour else None
            self._groups.setdefault(name, []).append(index)
        self._behaviours = {lane.behaviour.name: lane.behaviour for lane in lanes if lane.behaviour}

    def start(self, environment: LockstepVectorEnv, indices: np.ndarray, ended_at: States) -> None:
        """Episodes start where the environment starts them."""

    def act(
        self, environment: LockstepVectorEnv, observations: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(lanes, S) -> actions (lanes, A) float32, and further columns to record."""
        actions = np.empty((len(observations), self._action_size), dtype=np.float32)
        log_probs = np.empty(len(observations))
        for name, group in self._groups.items():
            if name is None:
                actions[group] = [self._rngs[i].uniform(-1, 1, self._action_size) for i in group]
                log_probs[group] = -self._action_size * np.log(2)
            else:
                noise = np.stack([self._rngs[i].standard_normal(self._action_size) for i in group])
                sample = self._behaviours[name].sample(observations[group], noise)
                actions[group], log_probs[group] = sample
        return actions, {"infos/action_log_probs": log_probs}

    def arrived(self, environment: LockstepVectorEnv) -> np.ndarray:
        """(lanes,) bool: episodes to be cut although the environment continues."""
        return np.zeros(environment.num_envs, dtype=bool)


Controller = SamplingController | Navigator | WaypointController


def roll_out(task: Task, lanes: list[Lane], seed: int) -> tuple[dict[str, np.ndarray], dict]:
    """Step all lanes together for as long as the longest.

    Returns:
        D4RL's arrays, lane after lane, and the statistics of `_episode_statistics`.
    """
    streams = np.random.SeedSequence(seed).spawn(len(lanes))
    with_actions = [np.random.default_rng(stream.spawn(1)[0]) for stream in streams]
    environment = make_vec(task.name, len(lanes))
    controller = _controller(task, environment, lanes, with_actions)
    try:
        seeds = [int(stream.generate_state(1)[0]) for stream in streams]
        return _record(environment, controller, np.array([lane.length for lane in lanes]), seeds)
    finally:
        environment.close()


def _controller(
    task: Task, environment: LockstepVectorEnv, lanes: list[Lane], rngs: list[np.random.Generator]
) -> Controller:
    if task.robot == "maze2d":
        return WaypointController(environment, rngs)
    behaviour = lanes[0].behaviour
    if task.robot == "antmaze" and behaviour:
        return Navigator(task, environment, behaviour, rngs)
    return SamplingController(lanes, environment.model.nu, rngs)


def _record(
    environment: LockstepVectorEnv,
    controller: Controller,
    lengths: np.ndarray,
    seeds: list[int],
) -> tuple[dict[str, np.ndarray], dict]:
    everyone = np.arange(environment.num_envs)
    environment.reset(seed=[*seeds])
    controller.start(environment, everyone, None)
    observations = environment.observations()
    columns: dict[str, np.ndarray] = {}
    whole = np.zeros((lengths.max(), len(everyone)), dtype=bool)
    arrivals = np.zeros_like(whole)
    steps = tqdm(
        range(lengths.max()),
        desc="generate",
        unit="step",
        unit_scale=len(everyone),
        mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log needs few
    )
    for step in steps:
        actions, extra = controller.act(environment, observations)
        row = {"observations": observations, "actions": actions, **extra}
        row["infos/qpos"], row["infos/qvel"] = environment.qpos.copy(), environment.qvel.copy()
        following, rewards, terminals, truncations, _ = environment.step(actions)
        arrived = controller.arrived(environment) & ~terminals
        finished = terminals | truncations | arrived
        last = step == lengths - 1
        row |= {"next_observations": following, "rewards": rewards, "terminals": terminals}
        row["timeouts"] = (truncations | arrived | last) & ~terminals
        _store(columns, row, step, lengths.max())
        whole[step], arrivals[step] = finished, arrived | (terminals & (rewards > 0))
        observations = following
        if finished.any():
            ended_at = environment.qpos.copy(), environment.qvel.copy()
            environment.reset(options={"reset_mask": finished})
            controller.start(environment, np.flatnonzero(finished), ended_at)
            observations = environment.observations()
    # One after the other, so that no two copies of all columns are in memory.
    arrays = {key: _lane_after_lane(columns.pop(key), lengths) for key in list(columns)}
    ends = _lane_after_lane(whole, lengths)
    return arrays, _episode_statistics(
        environment.task, arrays, ends, _lane_after_lane(arrivals, lengths)
    )


def _store(
    columns: dict[str, np.ndarray], row: dict[str, np.ndarray], step: int, steps: int
) -> None:
    for key, value in row.items():
        if key not in columns:
            dtype = NUMBER_FORMAT.get(key, np.float32)
            columns[key] = np.empty((steps, *value.shape), dtype=dtype)
        columns[key][step] = value


def _lane_after_lane(column: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([column[:length, lane] for lane, length in enumerate(lengths)])


def _episode_statistics(
    task: Task, arrays: dict[str, np.ndarray], ends: np.ndarray, arrivals: np.ndarray
) -> dict:
    """Returns of the whole episodes; those that the end of a lane cut short do not count."""
    stops = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    totals = np.add.reduceat(arrays["rewards"].astype(np.float64), np.r_[0, stops[:-1] + 1])
    is_whole = ends[stops]
    statistics: dict[str, float] = {"transitions": len(ends), "episodes": int(is_whole.sum())}
    if not is_whole.any():
        return statistics
    if task.robot != "maze2d":  # its rows are cut at the controller's goals, not at the task's
        mean = totals[is_whole].mean()
        statistics["mean_return"] = float(mean)
        statistics["mean_normalized_score"] = float(normalized_score(task.name, mean))
    if task.maze:
        statistics["goal_rate"] = float(arrivals[stops][is_whole].mean())
    return statistics


def _metadata(behaviours: list[Behaviour | None]) -> dict[str, Any]:
    trained = [behaviour for behaviour in behaviours if behaviour]
    if not trained:
        return {"algorithm": "uniformly random actions"}
    metadata: dict[str, Any] = {"algorithm": trained[0].algorithm}
    steps = [one.training_steps for one in trained if one.training_steps]
    if steps:
        metadata["iteration"] = steps if len(steps) > 1 else steps[0]
    if len(trained) > 1:
        return metadata
    weights = trained[0].weights
    for ours, theirs in LAYERS.items():
        metadata[f"policy/{theirs}/weight"] = weights[f"{ours}_weight"].T
        metadata[f"policy/{theirs}/bias"] = weights[f"{ours}_bias"]
    metadata["policy/nonlinearity"] = "relu"
    metadata["policy/output_distribution"] = "tanh_gaussian"
    return metadata


def write_dataset(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict, attributes: dict
) -> None:
    """Write D4RL-format HDF5, whole or not at all.

    Raises:
        D4RLTaskError: the file cannot be written.
    """
    # Built in memory: on a full disk HDF5 itself crashes the process when it exits.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values, **COMPRESSION)
        for key, value in metadata.items():
            file[f"metadata/{key}"] = value
        file.attrs.update(attributes)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def generate(
    task_name: str,
    out: Path,
    transitions: int | None = None,
    seed: int = 0,
    behaviour: Path | None = None,
) -> dict[str, float]:
    """Generate a synthetic dataset for a task.

    Args:
        task_name: D4RL's name.
        out: the HDF5 file to write.
        transitions: rows of the file, at least 2; None means `default_transitions`.
        seed: non-negative.
        behaviour: a file that `policy_files.read_policy` reads; None means the project's own.

    Returns:
        The file's attributes: rows, episodes, and over the whole episodes the
        mean return and normalised score (not maze2d), and in mazes the share that reached its goal.

    Raises:
        D4RLTaskError: unknown task, bad numbers, an unusable behaviour, or an unwritable file.
    """
    task = get_task(task_name)
    transitions = default_transitions(task) if transitions is None else transitions
    if transitions < 2:
        raise D4RLTaskError(f"transitions is {transitions}: a dataset needs at least 2")
    if seed < 0:
        raise D4RLTaskError(f"seed is {seed}: it must not be negative")
    behaviours: list[Behaviour | None]
    behaviours = [_foreign(task, behaviour)] if behaviour else behaviours_of(task)
    with atomic_path(out):
        # Fails now, not after a minute's work, if the folder cannot be written.
        pass
    arrays, statistics = roll_out(task, plan_lanes(behaviours, transitions), seed)
    attributes = {
        "synthetic": True,
        "generator": "d4rl_tasks.synthetic.generate",
        "task": task.name,
        "seed": seed,
        "behaviours": [
            b.name if b else MAZE_ALGORITHMS.get(task.robot, "random") for b in behaviours
        ],
        "mujoco_version": mujoco.mj_versionString(),
        **statistics,
    }
    is_maze = task.robot in MAZE_ALGORITHMS
    metadata = {"algorithm": MAZE_ALGORITHMS[task.robot]} if is_maze else _metadata(behaviours)
    write_dataset(out, arrays, metadata, attributes)
    return statistics


def _foreign(task: Task, path: Path) -> Behaviour:
    if task.maze:
        raise D4RLTaskError(
            f"{path} cannot generate {task.name}: datasets of mazes come from planners; choose "
            "a task without a maze"
        )
    return read_policy(path, *task_sizes(task))


def describe(path: Path, statistics: dict[str, float]) -> str:
    """One line for a person about a generated file."""
    line = (
        f"{path}: {statistics['transitions']} transitions, {statistics['episodes']} whole episodes"
    )
    if "mean_return" in statistics:
        line += (
            f", mean return {statistics['mean_return']:.1f}, "
            f"normalised score {statistics['mean_normalized_score']:.3f}"
        )
    if "goal_rate" in statistics:
        line += f", {statistics['goal_rate']:.1%} reached their goal"
    return line


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m d4rl_tasks.synthetic.generate",
        description="Generate a synthetic dataset for a D4RL task.",
    )
    parser.add_argument("task", help="a task's name, e.g. walker2d-expert-v2")
    parser.add_argument(
        "--transitions",
        type=number(int, 2, MOST_TRANSITIONS),
        help="rows of the file; needs --out (default: see docs/data.md)",
    )
    parser.add_argument(
        "--behaviour",
        type=Path,
        help="an .npz with a tanh-Gaussian policy, or a D4RL file that holds one; needs --out "
        "(default: the project's own behaviours)",
    )
    parser.add_argument(
        "--seed", type=number(int, 0, 2**31), default=0, help="needs --out (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="file to write (default: in the dataset folder)")
    options = parser.parse_args(arguments)
    if (options.behaviour or options.transitions or options.seed) and not options.out:
        # In the dataset folder under its usual name, every run would take it.
        parser.error("--behaviour, --transitions and --seed need --out, the file to write")
    # A termination unwinds like Ctrl-C does, so that no temporary file is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run_program(lambda: _generate(options))


def _generate(options: argparse.Namespace) -> None:
    out = options.out or synthetic_path(get_task(options.task).name)
    if options.out and not out.parent.is_dir():
        raise D4RLTaskError(
            f"the folder {out.parent} does not exist: create it, or give another --out"
        )
    if exists(out):
        raise D4RLTaskError(f"{out} exists already: give another file with --out")

    def write() -> None:
        how = options.transitions, options.seed, options.behaviour
        print(describe(out, generate(options.task, out, *how)))

    if options.out:
        write()
    else:  # a run that needs the dataset of this name waits for it
        generate_once(options.task, out, write)


if __name__ == "__main__":
    sys.exit(main())
