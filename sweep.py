"""Run a grid of experiments on Ray: one machine, or a cluster with --address.

python sweep.py --policies DMPO AWAC --envs hopper-medium-v2 walker2d-medium-v2 --seeds 0-4
python sweep.py --policies IQL --envs hopper-medium-v2 --seeds 0-4 --scale 1 3 10
python sweep.py --paper --dry-run

Options of main_training.py are given to every run; several values are a dimension of the grid
(`--hidden 64,64 256,256` is two architectures). Finished runs are skipped, and a run that dies
resumes from its checkpoint; so does the same command after an interrupted sweep. All machines of a
cluster must share the folder it is started in, and the code.
"""

from experiment.start_up import end_guard, guard_imports

if __name__ == "__main__":
    guard_imports()

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
import timeit
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import filelock
import numpy as np
import torch

import d4rl_tasks
from d4rl_tasks.command_line import Parser, number, printable, run_program
from d4rl_tasks.environments import available_cores
from d4rl_tasks.errors import D4RLTaskError, UserError
from d4rl_tasks.fetch import is_genuine
from d4rl_tasks.files import dataset_folder, file_checksum
from experiment.evaluation import EVAL_EPISODES, LAST_EVAL_EPISODES
from experiment.options import (
    POLICIES,
    Options,
    hyperparameter_types,
    hyperparameters_of,
    parse,
    policy_class,
    policy_name,
)
from experiment.options import make_parser as make_run_parser
from experiment.settings import LONGEST_NAME, option_settings
from reports.errors import ReportError
from reports.schema import read_columns, read_config
from utils import ReplayBuffer, RunSpec

MAIN = Path(__file__).parent / "main_training.py"
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
PAPER_SCALE, ANTMAZE_SCALE = "10.0", "5.0"
# The grid gives the first three; a checkpoint must not be set aside; tasks, scores and estimates
# are this project's own.
REFUSED = {"--policy", "--env", "--seed", "--fresh", "--backend"}
LOGS = Path("results") / "sweep"
MOST_SEEDS = 10_000
REFRESH = 2.0  # seconds between looks at the runs
REFRESH_LOG = 60.0  # seconds between tables where the output is not a terminal
GRACE = 120.0  # seconds that runs have to write a checkpoint
TIMED_CALLS = 6


class SweepError(UserError):
    """Something the user can fix."""


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
    """One run of the grid: main_training.py's arguments, and those of them that the grid varies."""

    policy: str
    env: str
    seed: int
    varied: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join([self.policy, self.env, *self.varied, f"seed {self.seed}"])

    @property
    def log(self) -> Path:
        stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)
        digest = hashlib.sha256(" ".join(self.arguments).encode()).hexdigest()
        return LOGS / f"{stem.replace('--', '')[:LONGEST_NAME]}_{digest[:8]}.log"

    @functools.cached_property
    def options(self) -> Options:
        return parse(self.arguments)

    @functools.cached_property
    def settings(self) -> str:
        return _text_of(option_settings(self.options))

    @property
    def identity(self) -> tuple:
        """No two runs of a grid may share this: they would write the same files."""
        run = self.options.run
        return self.settings, run.source, run.load_model, run.name


def _text_of(settings: dict[str, Any]) -> str:
    """Settings without the data's hashes, which only the files know."""
    known = {name: value for name, value in settings.items() if not name.endswith("_sha256")}
    return json.dumps(known, sort_keys=True)


@dataclass(frozen=True)
class State:
    """How far a run is; rate is in train steps per second, score x 100."""

    step: int = 0
    rate: float | None = None
    score: float | None = None


def seeds(text: str) -> range:
    """A type for argparse: "3" or "0-4"."""
    low, _, high = text.partition("-")
    try:
        numbers = range(int(low), int(high or low) + 1)
    except ValueError:
        numbers = range(0)
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a seed nor a range such as 0-4")
    if len(numbers) > MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {MOST_SEEDS} seeds")
    return numbers


def make_parser() -> Parser:
    """The sweep's own options."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="sweep.py"
    )
    parser.add_argument("--policies", nargs="+", type=policy_name, default=[])
    parser.add_argument("--envs", nargs="+", default=[], help="D4RL's tasks")
    parser.add_argument("--seeds", nargs="+", type=seeds, help="such as 0-4 or 1 2 5")
    parser.add_argument(
        "--paper",
        action="store_true",
        help=f"all policies on the paper's {len(PAPER_ENVS)} tasks, DMPO and DMPO_ant with and "
        f"without --info-reg, seeds {PAPER_SEEDS}",
    )
    parser.add_argument("--address", help="of a Ray cluster, or auto (default: this machine)")
    parser.add_argument(
        "--cpus", type=number(float, 0, open_low=True), default=1, help="cores for a run (1)"
    )
    parser.add_argument(
        "--gpus", type=number(float, 0), default=0, help="GPUs for a run, such as 0.25 (0)"
    )
    parser.add_argument(
        "--retries",
        type=number(int, 0),
        default=3,
        help="restarts of a run that died (%(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the runs and an estimate of their time"
    )
    return parser


def make_jobs(arguments: argparse.Namespace, others: Sequence[str]) -> list[Job]:
    """The grid; antmaze, and all of --paper, gets the paper's scale unless --scale is given.

    Raises:
        SweepError, D4RLTaskError: the grid is empty, or a task is unknown.
    """
    dimensions = make_dimensions(others)
    policies = arguments.policies or (POLICIES if arguments.paper else ())
    envs = arguments.envs or (PAPER_ENVS if arguments.paper else ())
    groups = arguments.seeds or ([seeds(PAPER_SEEDS)] if arguments.paper else ())
    numbers = dict.fromkeys(itertools.chain(*groups))
    if not (policies and envs and numbers):
        raise SweepError("give --policies, --envs and --seeds, or --paper")
    check_owners(policies, dimensions)
    jobs = []
    for env, policy in itertools.product(envs, policies):
        own = dimensions_of(policy, dimensions)
        if d4rl_tasks.get_task(env).robot == "antmaze":
            own.setdefault("--scale", [(ANTMAZE_SCALE,)])
        elif arguments.paper:
            own.setdefault("--scale", [(PAPER_SCALE,)])
        if arguments.paper and hasattr(hyperparameters_of(policy), "info_reg"):
            own.setdefault("--info_reg", [("False",), ("True",)])
        for varied, words in _points(own):
            for seed in numbers:
                line = ("--policy", policy, "--env", env, "--seed", str(seed), *words)
                jobs.append(Job(policy, env, seed, varied, line))
    return list(dict.fromkeys(jobs))


def check_jobs(jobs: Sequence[Job]) -> None:
    """Find a wrong option, and jobs that are the same run, before anything runs.

    Raises:
        SweepError: two jobs differ only in options that change nothing in a run.
    """
    seen: dict[tuple, Job] = {}
    for job in jobs:
        other = seen.setdefault(job.identity, job)
        if other is not job:
            raise SweepError(
                f"{other.name!r} and {job.name!r} are the same run: give one value of an option "
                "that does not change a run's results, such as --eval_freq, or of --max_timesteps"
            )


Dimensions = dict[str, list[tuple[str, ...]]]


def make_dimensions(words: Sequence[str]) -> Dimensions:
    """The values of each option, by its name: `--scale 1 3` is {"--scale": [("1",), ("3",)]}.

    Raises:
        SweepError: a word belongs to no option, or the sweep gives the option itself.
    """
    parser = make_run_parser()
    dimensions: Dimensions = {}
    name = ""
    for word in words:
        action = parser.option(word) if word.startswith("--") else None
        if word.startswith("--") and action is None:
            raise SweepError(f"unknown argument {word}{parser.suggestion(word)}")
        if action is None and not name:
            raise SweepError(f"{word!r} belongs to no option")
        if action is not None:
            name = action.option_strings[0]
            if name in REFUSED:
                raise SweepError(f"a sweep does not take {name}")
            given = [word.partition("=")[2]] if "=" in word else []
            dimensions[name] = [(value,) for value in given]
        else:
            dimensions[name].append((word,))
    return {name: _values(parser, name, values) for name, values in dimensions.items()}


def _values(parser: Parser, name: str, values: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    if not values:  # a switch
        return [()]
    action = parser.option(name)
    if action is None or action.nargs != "+":
        return values
    if not any("," in value for (value,) in values):  # one list
        return [tuple(value for (value,) in values)]
    return [tuple(value.split(",")) for (value,) in values]


def dimensions_of(policy: str, dimensions: Dimensions) -> Dimensions:
    """The dimensions that a policy has: the hyperparameters of others do not multiply its runs."""
    own, known = vars(hyperparameters_of(policy)), hyperparameter_types()
    return {
        name: values
        for name, values in dimensions.items()
        if name[2:] not in known or name[2:] in own
    }


def check_owners(policies: Sequence[str], dimensions: Dimensions) -> None:
    """Find a hyperparameter that no policy of the grid has.

    Raises:
        SweepError: there is one.
    """
    owned = set().union(*(dimensions_of(policy, dimensions) for policy in policies))
    for name in dimensions:
        if name not in owned:
            raise SweepError(f"{name} is not an option of {', '.join(policies)}")


def _points(dimensions: Dimensions) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every point of a grid: what tells it from the others, and its words."""
    for values in itertools.product(*dimensions.values()):
        point = dict(zip(dimensions, values, strict=True))
        varied = tuple(
            f"{name[2:]} {' '.join(value)}".strip()
            for name, value in point.items()
            if len(dimensions[name]) > 1
        )
        yield varied, [word for name, value in point.items() for word in (name, *value)]


def read_states(jobs: Sequence[Job]) -> dict[Job, State]:
    """How far each job is: the furthest run with the same settings, on the same data."""
    runs: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder in {job.options.run.results_dir / job.policy for job in jobs}:
        for path in folder.glob("*.json"):
            try:
                config = _config(path, path.stat().st_mtime_ns)
            except (OSError, ReportError):
                continue  # it does not count: main_training.py says what is wrong with it
            runs.setdefault(_text_of(config["settings"]), []).append((path, config))
    return {job: _furthest(job, runs.get(job.settings, [])) for job in jobs}


def _furthest(job: Job, runs: Sequence[tuple[Path, dict[str, Any]]]) -> State:
    states = []
    for path, config in runs:
        table = path.with_suffix(".csv")
        with contextlib.suppress(OSError, ReportError, D4RLTaskError):
            if _is_of(job, config):
                states.append(_last_row(table, table.stat().st_mtime_ns))
    return max(states, key=lambda state: state.step, default=State())


def _is_of(job: Job, config: dict[str, Any]) -> bool:
    run, options, dataset = job.options.run, config.get("options", {}), config["dataset"]
    if any(options.get(k) != getattr(run, k) for k in ("source", "load_model", "name")):
        return False
    if run.source == "auto" and dataset["synthetic"]:
        file = dataset_folder() / d4rl_tasks.get_task(job.env).file_name
        if is_genuine(file, silent=True):  # D4RL's own data have come since
            return False
    path = Path(dataset.get("path", ""))
    if not path.is_file():
        return True
    content = _checksum(path, path.stat().st_mtime_ns)
    return content == config["settings"]["dataset_sha256"]


@functools.lru_cache(1_000)
def _checksum(path: Path, mtime: int) -> str:
    return file_checksum(path).sha256


@functools.lru_cache(100_000)
def _config(path: Path, mtime: int) -> dict[str, Any]:
    """The content of a <run>.json, read again only when it has changed."""
    return read_config(path)


@functools.lru_cache(100_000)
def _last_row(path: Path, mtime: int) -> State:
    columns = read_columns(path)
    if not len(columns.get("step", ())):
        return State()
    step = int(columns["step"][-1])
    seconds = float(columns["wall_time"][-1]) if "wall_time" in columns else math.nan
    rate = step / seconds if seconds > 0 else None
    return State(step, rate, 100 * float(columns["score_mean"][-1]))


def is_finished(job: Job, state: State) -> bool:
    """Whether a run has come to its last step."""
    return state.step >= job.options.run.max_timesteps


def run_job(arguments: Sequence[str], folder: str, log: str) -> int:
    """The body of a worker: main_training.py, with its output in a file. Returns the exit code.

    Raises:
        ChildProcessError: a signal stopped the run; Ray tries it again.
    """
    running = Path(log).with_suffix(".running")
    with Path(log).open("ab") as file:
        run = subprocess.Popen(
            [sys.executable, str(MAIN), *arguments], cwd=folder, stdout=file, stderr=file
        )
        running.write_text(f"{platform.node()} {run.pid}")
        try:
            code = run.wait()
        except KeyboardInterrupt:  # Ray cancels the worker
            run.send_signal(signal.SIGTERM)
            code = run.wait()
        finally:
            running.unlink(missing_ok=True)
    if code < 0 or code > 128:
        raise ChildProcessError(f"stopped by signal {-code if code < 0 else code - 128}")
    return code


class Sweep:
    """The jobs on Ray, and their outcomes.

    Attributes:
        done: by job: "skipped", "finished" or "failed: ...".
    """

    def __init__(self, jobs: Sequence[Job], arguments: argparse.Namespace):
        import ray

        self.ray = ray
        self.jobs = list(jobs)
        states = read_states(jobs)
        self.done = {job: "skipped" for job, state in states.items() if is_finished(job, state)}
        self.started = time.monotonic()
        self._steps_before = sum(state.step for state in states.values())
        for mark in LOGS.glob("*.running"):  # of a sweep that was killed
            mark.unlink()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local = {} if arguments.address else {"include_dashboard": False, **LOOPBACK}
        try:
            ray.init(address=arguments.address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SweepError(f"no Ray cluster: {printable(error)[:200]}") from error
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
                    f"a run needs {wanted:g} {name}, but Ray has {there.get(name, 0):g} in total"
                )

    def wait(self, seconds: float) -> None:
        """Wait for runs to end, at most so long."""
        ended, _ = self.ray.wait(list(self.running), timeout=seconds)
        for reference in ended:
            job = self.running.pop(reference)
            job.log.with_suffix(".running").unlink(missing_ok=True)  # if its process was killed
            self.done[job] = self._outcome(reference, job)

    def _outcome(self, reference: Any, job: Job) -> str:
        try:
            if self.ray.get(reference) == 0:
                return "finished"
            reason = last_line(job.log)
        except self.ray.exceptions.RayError as error:
            reason = printable(getattr(error, "cause", None) or error)[:200]
        return f"failed: {reason}, see {job.log}"

    def stop(self) -> None:
        """Ask all runs for a checkpoint and wait for it."""
        for mark in LOGS.glob("*.running"):
            _signal(mark)
        for reference in self.running:
            self.ray.cancel(reference)
        deadline = time.monotonic() + GRACE
        while self._marks() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _marks(self) -> set[str]:
        return {path.stem for path in LOGS.glob("*.running")}

    def table(self, *, whole: bool = False) -> str:
        """Counts, and a line for each run that runs or failed; or for every run."""
        marks, states = self._marks(), read_states(self.jobs)
        outcomes = {job: self.done.get(job, self._now(job, marks)) for job in self.jobs}
        counts = Counter(outcome.split(":")[0] for outcome in outcomes.values())
        first = "  ".join(f"{count} {outcome}" for outcome, count in counts.items())
        lines = [first + self._left(states)]
        for job, outcome in outcomes.items():
            if whole or outcome == "running" or outcome.startswith("failed"):
                lines.append(f"{job.name:<44}{_progress(job, states[job])}  {outcome}")
        return "\n".join(lines)

    def _now(self, job: Job, marks: set[str]) -> str:
        return "running" if job.log.stem in marks else "waiting"

    def _left(self, states: dict[Job, State]) -> str:
        """The time left, by the train steps since the start."""
        waiting = [job for job in self.jobs if job not in self.done]
        trained = sum(state.step for state in states.values()) - self._steps_before
        if not waiting or trained <= 0:
            return ""
        left = sum(job.options.run.max_timesteps - states[job].step for job in waiting)
        return f"  about {duration(left * (time.monotonic() - self.started) / trained)} left"


LOOPBACK = {"_node_ip_address": "127.0.0.1"}


def _signal(mark: Path) -> None:
    """Stop a run on this machine; Ray's cancelling stops those on the others of a cluster."""
    with contextlib.suppress(OSError, ValueError):  # it has just ended
        machine, pid = mark.read_text().rsplit(maxsplit=1)
        if machine == platform.node():
            os.kill(int(pid), signal.SIGTERM)


def last_line(log: Path) -> str:
    """The last line of a run's output, which names its error."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return "no output"
    full = [printable(line) for line in lines if line.strip()]
    return full[-1][:200] if full else "no output"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 minutes", "3 hours", "190 days"."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            amount = seconds / size
            digits = max(0, int(math.log10(amount)) - 1)
            return f"{round(amount, -digits):.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"


def _progress(job: Job, state: State) -> str:
    rate = "" if state.rate is None else f"{state.rate:.1f} steps/s"
    score = "" if state.score is None else f"score {state.score:z.1f}"
    return f"{state.step:>9}/{job.options.run.max_timesteps:<9}{rate:>15}{score:>13}"


class Screen:
    """Shows a text in place of the one before; in a file, now and then below it."""

    def __init__(self):
        self._height, self._last = 0, -REFRESH_LOG

    def show(self, text: str, *, final: bool = False) -> None:
        if sys.stdout.isatty():
            columns, lines = shutil.get_terminal_size()  # 80 x 24 where it is not known
            if not final:  # lines that wrapped could not be overwritten
                text = "\n".join(line[:columns] for line in text.split("\n")[: lines - 1])
            up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
            print(up + text)
            self._height = text.count("\n") + 1
        elif final or time.monotonic() - self._last >= REFRESH_LOG:
            print(text)
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
            print("stopped: the same command resumes the sweep", file=sys.stderr)
            return 128 + request.number
    finally:
        sweep.ray.shutdown()
    screen.show(sweep.table(whole=True), final=True)
    return int(any(state.startswith("failed") for state in sweep.done.values()))


def estimate(jobs: Sequence[Job], cpus: float) -> str:
    """The runs that are left, and about how long they take on this machine."""
    left = {job: state for job, state in read_states(jobs).items() if not is_finished(job, state)}
    threads = min(max(1, round(cpus)), available_cores())
    torch.set_num_threads(threads)
    costs: dict[tuple, tuple[float, float]] = {}
    seconds = 0.0
    for job, state in left.items():
        run = job.options.run
        robot, hyperparameters = d4rl_tasks.get_task(job.env).robot, job.options.hyperparameters
        kind = job.policy, robot, repr(hyperparameters), run.batch_size, run.eval_episodes
        if kind not in costs:
            costs[kind] = measure(job, threads)
        of_step, of_evaluation = costs[kind]
        steps = run.max_timesteps - state.step
        evaluations = math.ceil(steps / run.eval_freq)
        if not run.eval_episodes:  # the last one may be longer
            evaluations += LAST_EVAL_EPISODES.get(robot, EVAL_EPISODES) / EVAL_EPISODES - 1
        seconds += steps * of_step + evaluations * of_evaluation
    at_once = max(1, min(len(left), int(available_cores() / cpus)))
    commands = [shlex.join(["python", "main_training.py", *job.arguments]) for job in left]
    cores = "one core" if threads == 1 else f"{threads} cores"
    total = f"{len(left)} of {len(jobs)} runs are left"
    if left:
        total += f": about {duration(seconds)} of {cores}, {duration(seconds / at_once)} with "
        total += f"{at_once} at a time (timed just now on the CPU)"
    return "\n".join([*commands, total])


def measure(job: Job, threads: int) -> tuple[float, float]:
    """Seconds of a train step on the CPU and, at most, of an evaluation."""
    run, episodes = job.options.run, job.options.run.eval_episodes or EVAL_EPISODES
    environment = d4rl_tasks.make_vec(job.env, episodes, threads=threads)
    spaces = environment.single_observation_space, environment.single_action_space
    state_dim, action_dim = (math.prod(space.shape or ()) for space in spaces)
    spec = RunSpec(state_dim, action_dim)
    policy = policy_class(job.policy)(spec, job.options.hyperparameters)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2000, state_dim))
    actions = rng.uniform(-1, 1, (2000, action_dim))
    buffer = ReplayBuffer(states, actions, states, states[:, 0], np.zeros(2000))

    def act() -> None:
        environment.step(policy.select_action(environment.observations()))

    def reset() -> None:  # so that no episode is over yet
        environment.reset(seed=0)

    calls = TIMED_CALLS
    steps = timeit.repeat(lambda: policy.train(buffer, run.batch_size), number=calls, repeat=5)
    acts = timeit.repeat(act, reset, number=calls, repeat=3)
    environment.close()
    length = d4rl_tasks.get_task(job.env).max_episode_steps
    return min(steps) / calls, min(acts) / calls * length


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    end_guard()
    arguments, others = make_parser().parse_known_args(argv)

    def run() -> int:
        jobs = make_jobs(arguments, others)
        check_jobs(jobs)
        if arguments.dry_run:
            print(estimate(jobs, arguments.cpus))
            return 0
        try:
            return run_sweep(jobs, arguments)
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise SweepError("ray is missing: pip install -r requirements-sweep.txt") from None

    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
