"""Run a grid of experiments on Ray: one machine, or a cluster with --address.

python sweep.py --policies DMPO AWAC --envs hopper-medium-v2 walker2d-medium-v2 --seeds 0-4
python sweep.py --paper --dry-run

Options of main_training.py (--max_timesteps, --source, ...) are given to every run. What is
finished is skipped; what dies goes on from its checkpoint. The same command goes on with an
interrupted sweep. On a cluster all machines must share the folder it is started in, and the code.
"""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds, is no reason for a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import csv
import itertools
import json
import math
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import filelock
import numpy as np
import torch

import d4rl_tasks
import main_training
from main_training import EVAL_EPISODES, MAX_ACTION, POLICIES, Parser, number, policy_module
from utils import ReplayBuffer

PAPER_ENVS = [
    *(
        f"{robot}-{quality}-v2"
        for robot in ("halfcheetah", "hopper", "walker2d")
        for quality in ("expert", "medium-expert", "medium-replay", "medium")
    ),
    *(f"antmaze-{kind}-v0" for kind in ("umaze", "umaze-diverse", "medium-play", "medium-diverse")),
    *("antmaze-large-play-v0", "antmaze-large-diverse-v0"),
]
PAPER_SEEDS = "0-4"
ANTMAZE_SCALE = "5.0"
# They change nothing in what a run computes.
NOT_COMPARED = {"device_id", "save_model", "checkpoint_freq", "fresh", "logger", "no_cuda_graph"}
# The grid gives the first three; what has a checkpoint must not start over; tasks, scores and
# estimates are this project's own.
REFUSED = {"--policy", "--env", "--seed", "--fresh", "--backend"}
LOGS = Path("results") / "sweep"
BATCH = 256
REFRESH = 2.0  # seconds between looks at the runs
REFRESH_LOG = 60.0  # seconds between tables where the output is no terminal
GRACE = 120.0  # seconds that runs have to write a checkpoint


class SweepError(Exception):
    """Something the user can mend; the message is one line."""


class StopRequest:
    """SIGINT or SIGTERM. It is only noted: Ray's C++ code survives no exception of a handler's.

    Attributes:
        number: the signal's, or None.
    """

    def __init__(self):
        self.number: int | None = None
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number


@dataclass(frozen=True)
class Job:
    """One run of the grid; `arguments` are main_training.py's."""

    policy: str
    env: str
    seed: int
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.policy} {self.env} seed {self.seed}"

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name.replace(' ', '_')}.log"

    @property
    def options(self) -> argparse.Namespace:
        return main_training.make_parser().parse_args(self.arguments)


@dataclass(frozen=True)
class State:
    """How far a run is; rate is in train steps per second, score x 100."""

    step: int = 0
    rate: float | None = None
    score: float | None = None


def seeds(text: str) -> list[int]:
    """A type for argparse: "3" or "0-4"."""
    low, _, high = text.partition("-")
    try:
        numbers = list(range(int(low), int(high or low) + 1))
    except ValueError:
        numbers = []
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a seed nor a range as 0-4")
    return numbers


def make_parser() -> argparse.ArgumentParser:
    """The sweep's own options."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--policies", nargs="+", type=main_training.policy_name, default=[])
    parser.add_argument("--envs", nargs="+", default=[], help="D4RL's tasks")
    parser.add_argument("--seeds", nargs="+", type=seeds, help="e.g. 0-4 or 1 2 5")
    parser.add_argument(
        "--paper",
        action="store_true",
        help=f"all policies, {len(PAPER_ENVS)} tasks, seeds {PAPER_SEEDS}, "
        "where the three options above do not say otherwise",
    )
    parser.add_argument("--address", help="of a Ray cluster, or auto (default: this machine)")
    parser.add_argument(
        "--cpus", type=number(float, 0, open_low=True), default=1, help="cores for a run (1)"
    )
    parser.add_argument(
        "--gpus", type=number(float, 0), default=0, help="GPUs for a run, as 0.25 (0)"
    )
    parser.add_argument(
        "--retries", type=number(int, 0), default=3, help="of a run that died (%(default)s)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the runs and an estimate of their time"
    )
    return parser


def make_jobs(arguments: argparse.Namespace, others: Sequence[str]) -> list[Job]:
    """The grid; antmaze gets the paper's scale of 5, unless --scale is given.

    Raises:
        SweepError, D4RLTaskError: the grid is empty, or there is no such task.
    """
    refused = sorted({word.split("=")[0] for word in others} & REFUSED)
    if refused:
        raise SweepError(f"a sweep does not take {', '.join(refused)}")
    policies = arguments.policies or (POLICIES if arguments.paper else ())
    envs = arguments.envs or (PAPER_ENVS if arguments.paper else ())
    groups = arguments.seeds or ([seeds(PAPER_SEEDS)] if arguments.paper else ())
    numbers = dict.fromkeys(itertools.chain(*groups))
    if not (policies and envs and numbers):
        raise SweepError("give --policies, --envs and --seeds, or --paper")
    jobs = []
    for env, policy, seed in itertools.product(envs, policies, numbers):
        line = ["--policy", policy, "--env", env, "--seed", str(seed), *others]
        given = main_training.make_parser().parse_args(line)
        if d4rl_tasks.get_task(env).robot == "antmaze" and given.scale is None:
            line += ["--scale", ANTMAZE_SCALE]
        jobs.append(Job(policy, env, seed, tuple(line)))
    return list(dict.fromkeys(jobs))


def read_state(job: Job) -> State:
    """How far a job is, by the files of the run with the same options."""
    wanted = vars(job.options)
    for path in (Path("results") / job.policy).glob(f"*_{job.env}_seed{job.seed}_*.json"):
        try:
            given = json.loads(path.read_text())["arguments"]
            if all(given.get(k) == v for k, v in wanted.items() if k not in NOT_COMPARED):
                return _last_row(path.with_suffix(".csv"))
        except (OSError, ValueError, KeyError):
            continue  # it does not count: main_training.py says what is wrong with it
    return State()


def _last_row(path: Path) -> State:
    with path.open(newline="") as file:
        *_, row = csv.DictReader(file)
    step = int(row["step"])
    rate = step / max(float(row["wall_time"]), 1e-9)
    return State(step, rate, 100 * float(row["score_mean"]))


def is_finished(job: Job) -> bool:
    """Has the run come to its last step?"""
    return read_state(job).step >= job.options.max_timesteps


def run_job(arguments: Sequence[str], folder: str, log: str) -> int:
    """What a worker does: main_training.py, its output into a file. Returns the exit code.

    Raises:
        ChildProcessError: a signal stopped the run; Ray tries it again.
    """
    os.chdir(folder)
    running = Path(log).with_suffix(".running")
    running.write_text(str(os.getpid()))
    try:
        with Path(log).open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
            try:
                code = main_training.main(list(arguments))
            except Exception:
                traceback.print_exc()  # into the log
                raise
    finally:
        running.unlink(missing_ok=True)
    if code > 128:
        raise ChildProcessError(f"stopped by signal {code - 128}")
    return code


class Sweep:
    """The jobs on Ray, and what became of them.

    Attributes:
        done: by job: "skipped", "finished" or "failed: ...".
    """

    def __init__(self, jobs: Sequence[Job], arguments: argparse.Namespace):
        import ray

        self.ray = ray
        self.jobs = list(jobs)
        self.done = {job: "skipped" for job in jobs if is_finished(job)}
        for mark in LOGS.glob("*.running"):  # of a sweep that was killed
            mark.unlink()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address=arguments.address,
            include_dashboard=None if arguments.address else False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        self._check_resources(arguments)
        # A process for every run: nothing of one is left for the next.
        task = ray.remote(
            num_cpus=arguments.cpus,
            num_gpus=arguments.gpus,
            max_calls=1,
            max_retries=arguments.retries,
            retry_exceptions=[ChildProcessError],
        )(run_job)
        self.running = {
            task.remote(job.arguments, str(Path.cwd()), str(job.log.resolve())): job
            for job in jobs
            if job not in self.done
        }

    def _check_resources(self, arguments: argparse.Namespace) -> None:
        there = self.ray.cluster_resources()
        for name, wanted in (("CPU", arguments.cpus), ("GPU", arguments.gpus)):
            if wanted > there.get(name, 0):
                raise SweepError(
                    f"a run asks for {wanted:g} {name}, Ray has {there.get(name, 0):g} in all"
                )

    def wait(self, seconds: float) -> None:
        """Wait for runs to end, at most so long."""
        ended, _ = self.ray.wait(list(self.running), timeout=seconds)
        for reference in ended:
            job = self.running.pop(reference)
            job.log.with_suffix(".running").unlink(missing_ok=True)  # if its process was killed
            self.done[job] = self._outcome(reference, job)

    def _outcome(self, reference, job: Job) -> str:
        try:
            code = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return f"failed: {type(error).__name__}, see {job.log}"
        return "finished" if code == 0 else f"failed: exit code {code}, see {job.log}"

    def stop(self) -> None:
        """Ask all runs for a checkpoint and wait for it."""
        for reference in self.running:
            self.ray.cancel(reference)
        deadline = time.monotonic() + GRACE
        while self._marks() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _marks(self) -> set[str]:
        return {path.stem for path in LOGS.glob("*.running")}

    def table(self, *, whole: bool = False) -> str:
        """Counts, and a line for each run that runs or failed; or for every run."""
        marks = self._marks()
        states = {job: self.done.get(job, self._now(job, marks)) for job in self.jobs}
        counts = Counter(state.split(":")[0] for state in states.values())
        lines = ["  ".join(f"{count} {state}" for state, count in counts.items())]
        for job, state in states.items():
            if whole or state == "running" or state.startswith("failed"):
                lines.append(f"{job.name:<44}{_progress(job)}  {state}")
        return "\n".join(lines)

    def _now(self, job: Job, marks: set[str]) -> str:
        return "running" if job.log.stem in marks else "waiting"


def _progress(job: Job) -> str:
    state = read_state(job)
    rate = "" if state.rate is None else f"{state.rate:.1f} steps/s"
    score = "" if state.score is None else f"score {state.score:.1f}"
    return f"{state.step:>9}/{job.options.max_timesteps:<9}{rate:>15}{score:>13}"


class Screen:
    """Shows a text in place of the one before; into a file, now and then below it."""

    def __init__(self):
        self._height, self._last = 0, -REFRESH_LOG

    def show(self, text: str, *, final: bool = False) -> None:
        if sys.stdout.isatty():
            up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
            print(up + text, flush=True)
            self._height = text.count("\n") + 1
        elif final or time.monotonic() - self._last >= REFRESH_LOG:
            print(text, flush=True)
            self._last = time.monotonic()


def run_sweep(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    """Run the jobs to their ends; returns the exit code.

    Raises:
        SweepError: another sweep runs in this folder.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(LOGS / "lock", timeout=0):
            return _run_locked(jobs, arguments)
    except filelock.Timeout:
        raise SweepError(f"another sweep runs in this folder, see {LOGS}") from None


def _run_locked(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    sweep, screen = Sweep(jobs, arguments), Screen()
    request = StopRequest()  # after Ray has set its own handlers
    try:
        while sweep.running and request.number is None:
            screen.show(sweep.table())
            sweep.wait(REFRESH)
        if request.number is not None:
            print("stopping: the runs write their checkpoints", file=sys.stderr)
            sweep.stop()
            print("stopped: the same command goes on from there", file=sys.stderr)
            return 128 + request.number
    finally:
        sweep.ray.shutdown()
    screen.show(sweep.table(whole=True), final=True)
    return int(any(state.startswith("failed") for state in sweep.done.values()))


def estimate(jobs: Sequence[Job], cpus: float) -> str:
    """The runs that are left, and at most how many hours of this machine they take."""
    left = [job for job in jobs if not is_finished(job)]
    threads = max(1, round(cpus))
    torch.set_num_threads(threads)
    costs: dict[tuple[str, str], tuple[float, float]] = {}
    seconds = 0.0
    for job in left:
        kind = job.policy, d4rl_tasks.get_task(job.env).robot
        if kind not in costs:
            costs[kind] = measure(job.policy, job.env, threads)
        of_step, of_evaluation = costs[kind]
        steps = job.options.max_timesteps - read_state(job).step
        seconds += steps * of_step + math.ceil(steps / job.options.eval_freq) * of_evaluation
    at_once = max(1, int((os.cpu_count() or 1) / cpus))
    commands = [shlex.join(["python", "main_training.py", *job.arguments]) for job in left]
    total = (
        f"{len(left)} of {len(jobs)} runs are left: at most {seconds / 3600:.1f} hours one after "
        f"the other on {threads} of this machine's cores, {seconds / 3600 / at_once:.1f} with "
        f"{at_once} at a time (from the policies' train steps and evaluations, timed just now on "
        "the CPU; networks of default size, episodes of full length)"
    )
    return "\n".join([*commands, total])


def measure(policy_name: str, env: str, threads: int) -> tuple[float, float]:
    """Seconds of a train step on the CPU and, at most, of an evaluation."""
    environment = d4rl_tasks.make_vec(env, EVAL_EPISODES, threads=threads)
    sizes = [space.shape[0] for space in _spaces(environment)]
    module = policy_module(policy_name)
    policy = getattr(module, policy_name)(*sizes, MAX_ACTION, module.Hyperparameters())
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2000, sizes[0]))
    actions = rng.uniform(-1, 1, (2000, sizes[1]))
    buffer = ReplayBuffer(states, actions, states, states[:, 0], np.zeros(2000))

    def act() -> None:
        environment.step(policy.select_action(environment.observations()))

    step = min(_time(lambda: policy.train(buffer, BATCH)) for _ in range(5))
    evaluation = []
    for seed in range(3):
        environment.reset(seed=seed)  # so that no episode is over yet
        evaluation.append(_time(act))
    environment.close()
    return step, min(evaluation) * d4rl_tasks.get_task(env).max_episode_steps


def _spaces(environment: d4rl_tasks.LockstepVectorEnv) -> tuple:
    return environment.single_observation_space, environment.single_action_space


def _time(function: Callable[[], object], calls: int = 6) -> float:
    """Seconds of a call, the mean of several."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments, others = make_parser().parse_known_args(argv)
    try:
        jobs = make_jobs(arguments, others)
        if arguments.dry_run:
            print(estimate(jobs, arguments.cpus))
            return 0
        return run_sweep(jobs, arguments)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        print("error: ray is missing: pip install -r requirements-sweep.txt", file=sys.stderr)
    except (SweepError, d4rl_tasks.D4RLTaskError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:  # before the first run began
        return 128 + signal.SIGINT
    return 2


if __name__ == "__main__":
    sys.exit(main())
