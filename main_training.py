"""Train and evaluate a policy on a D4RL task.

python main_training.py --policy DMPO --env walker2d-expert-v2 --scale 10.0
python main_training.py --policy DMPO_ant --env antmaze-large-play-v0 --scale 5.0 --info-reg
"""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == "__main__":
    # Ctrl-C during the imports below, which take seconds, is no reason for a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import contextlib
import dataclasses
import importlib
import io
import math
import platform
import random
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

import d4rl_tasks
from d4rl_tasks import original
from d4rl_tasks.files import atomic_path
from experiment import DivergedError, LossLog, Results, RunError, StoppedError, StopSignals
from experiment.capture import CapturedTrainSteps, TrainSteps
from experiment.loggers import LOGGERS, choose_logger, make_logger
from utils import Policy, ReplayBuffer

POLICIES = ("DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC", "LP_AWAC")
# Where environments, datasets and scores come from.
BACKENDS = {"d4rl_tasks": d4rl_tasks, "d4rl": original}
EVAL_EPISODES = 10
LAST_EVAL_EPISODES = {"antmaze": 100}
EVAL_SEED_OFFSET = 100
LOSS_CHECK_FREQ = 1_000
MAX_ACTION = 1.0
MAX_SIZE = 1_000_000
MODEL_FORMAT = "dmpo-model-1"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"error: {one_line(message)} (--help lists the options)\n")


def one_line(message: object) -> str:
    """A message without line ends, which come from names that hold some."""
    return " ".join(str(message).splitlines())


def number(
    kind: type, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False
) -> Callable[[str], float]:
    """A type for argparse: an int (5e3 is one) or a finite float, at least `low`, at most `high`.

    Args:
        kind: int or float.
        open_low: the number must be greater than `low`.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not math.isfinite(value) or (kind is int and value != int(value)):
            what = "whole number" if kind is int else "finite number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        if value < low or value > high or (open_low and value == low):
            bound = f"{'more than' if open_low else 'at least'} {low:g}"
            if high < math.inf:
                bound += f" and at most {high:g}"
            raise argparse.ArgumentTypeError(f"{text} must be {bound}")
        return kind(value)

    return parse


def boolean(text: str) -> bool:
    """A type for argparse: true or false, in any case."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def policy_name(text: str) -> str:
    """A type for argparse: a policy's name in any case."""
    for name in POLICIES:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"no policy {text!r}: choose from {', '.join(POLICIES)}")


def make_parser() -> argparse.ArgumentParser:
    """The command line. Options that stay None leave a policy's own default as it is."""
    parser = Parser(description="Train and evaluate a policy on a D4RL task.", allow_abbrev=False)
    positive = number(int, 1)
    size = number(int, 1, MAX_SIZE)

    run = parser.add_argument_group("run")
    run.add_argument(
        "--policy",
        type=policy_name,
        default="DMPO_ant",
        help=f"{', '.join(POLICIES)} (default: %(default)s)",
    )
    run.add_argument(
        "--env", default="antmaze-large-diverse-v0", help="a D4RL task (default: %(default)s)"
    )
    run.add_argument(
        "--source",
        default="auto",
        help="dataset: auto, d4rl, synthetic, minari:ID or a path (default: %(default)s)",
    )
    run.add_argument(
        "--backend",
        choices=BACKENDS,
        default="d4rl_tasks",
        help="d4rl takes environment, dataset and scores from gym and d4rl themselves, and has all "
        "their tasks (default: %(default)s)",
    )
    run.add_argument(
        "--seed", type=number(int, 0, 2**31), default=1, help="of everything (default: %(default)s)"
    )
    run.add_argument(
        "--max_timesteps",
        type=positive,
        default=1_000_000,
        help="train steps (default: %(default)s)",
    )
    run.add_argument(
        "--device_id",
        type=number(int, -1),
        default=-1,
        help="number of the GPU; -1 takes the first one or, if there is none, the CPU "
        "(default: %(default)s)",
    )
    run.add_argument(
        "--no_cuda_graph",
        action="store_true",
        help="on a GPU run train steps one by one, not policy_freq of them as one CUDA graph",
    )

    results = parser.add_argument_group("results")
    results.add_argument(
        "--eval_freq",
        type=positive,
        default=5_000,
        help="train steps between evaluations (default: %(default)s)",
    )
    results.add_argument(
        "--c_loss_freq",
        type=positive,
        default=5_000,
        help="train steps averaged in a line of the critic loss log (default: %(default)s)",
    )
    results.add_argument(
        "--checkpoint_freq",
        type=positive,
        help="train steps between checkpoints, from which the same command goes on after a crash "
        "(default: at every evaluation)",
    )
    results.add_argument(
        "--fresh",
        action="store_true",
        help="start over and set the files of an earlier run of this name aside",
    )
    results.add_argument(
        "--save_model",
        type=boolean,
        nargs="?",
        const=True,
        default=True,
        help="write models/<run>.pt at every evaluation (default: %(default)s)",
    )
    results.add_argument(
        "--load_model",
        default="",
        metavar="default|PATH",
        help="start from a saved model; default is this run's own (default: start anew)",
    )

    results.add_argument(
        "--logger",
        choices=LOGGERS,
        help="where else evaluations go (default: tensorboard if it is installed)",
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--batch_size", type=size, default=256, help="transitions (default: %(default)s)"
    )
    training.add_argument(
        "--normalize",
        type=boolean,
        nargs="?",
        const=True,
        default=True,
        help="normalise states by the dataset's mean and std (default: %(default)s)",
    )
    training.add_argument(
        "--no-normalize", dest="normalize", action="store_false", help="the same as False"
    )
    training.add_argument(
        "--discount", type=number(float, 0, 1), help="gamma, per step (default: 0.99)"
    )
    training.add_argument(
        "--tau",
        type=number(float, 0, 1, open_low=True),
        help="Polyak step of the targets (default: 0.005)",
    )
    training.add_argument(
        "--policy_freq", type=positive, help="critic updates per policy update (default: 2)"
    )
    training.add_argument(
        "--scale",
        type=number(float, 0),
        help="of the advantages; 0 is plain regression (default: 10; the paper's antmaze: 5)",
    )
    training.add_argument(
        "--weight_type", choices=["", "adapt", "clamp", "raw"], help='default: "", as adapt'
    )
    training.add_argument(
        "--hidden",
        type=size,
        nargs="+",
        help="units of each hidden layer (default: 256 256; DMPO_ant: 256 256 256)",
    )

    policies = parser.add_argument_group("policies (an option of another policy is ignored)")
    policies.add_argument(
        "--latent_disc_dim",
        type=size,
        help="DMPO, DMPO_ant, mixAWAC: components of the mixture (default: 8)",
    )
    policies.add_argument(
        "--info-reg",
        action="store_true",
        default=None,
        help="DMPO, DMPO_ant: maximise the mutual information of component and action",
    )
    policies.add_argument(
        "--ilr",
        type=number(float, 0, open_low=True),
        help="DMPO, DMPO_ant: learning rate of --info-reg (default: 5e-7)",
    )
    policies.add_argument(
        "--doubleq_min",
        type=number(float, 0, 1),
        help="DMPO_ant: weight of the lower of the twin critics (default: 0.7)",
    )
    policies.add_argument(
        "--score_type", help="AWAC: adv weights by Q - V, anything else by Q (default: adv)"
    )
    policies.add_argument("--expectile", type=number(float, 0, 1), help="IQL (default: 0.9)")
    policies.add_argument(
        "--max_latent_action",
        type=number(float, 0, open_low=True),
        help="LP_AWAC: bound of the latent policy (default: 2.0)",
    )
    policies.add_argument(
        "--no_noise",
        action="store_true",
        default=None,
        help="LP_AWAC: no noise on latent actions in V's targets",
    )
    return parser


POLICY_OPTIONS = [
    *("discount", "tau", "policy_freq", "scale", "weight_type", "hidden", "score_type"),
    *("latent_disc_dim", "info_reg", "ilr", "doubleq_min", "expectile"),
    *("max_latent_action", "no_noise"),
]


def policy_module(name: str) -> ModuleType:
    """The module of a policy: its `Hyperparameters` and a class of the policy's name."""
    return importlib.import_module(name)


def choose_hyperparameters(arguments: argparse.Namespace):
    """The policy's defaults with what the command line gives.

    Raises:
        RunError: `--hidden` does not fit the policy.
    """
    hyperparameters = policy_module(arguments.policy).Hyperparameters()
    given = {option: getattr(arguments, option) for option in POLICY_OPTIONS}
    given = {option: value for option, value in given.items() if value is not None}
    for option in given.keys() - vars(hyperparameters).keys():
        print(f"warning: {arguments.policy} has no --{option}; it is ignored", file=sys.stderr)
        del given[option]
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
        layers = len(hyperparameters.hidden)
        if len(given["hidden"]) != layers:
            raise RunError(
                f"--hidden has {len(given['hidden'])} sizes: {arguments.policy} has {layers} "
                f"hidden layers, give {layers}"
            )
    return dataclasses.replace(hyperparameters, **given)


def choose_device(device_id: int) -> torch.device:
    """The GPU of that number; for -1 the first GPU, or the CPU where there is none."""
    count = torch.cuda.device_count()
    if device_id >= count:
        raise RunError(
            f"--device_id {device_id}: this machine has {count} GPUs; -1 takes what is there"
        )
    return torch.device("cuda", max(device_id, 0)) if count else torch.device("cpu")


def training_rewards(policy: str, task: d4rl_tasks.Task, rewards: np.ndarray) -> np.ndarray:
    """Rewards as a policy trains on them: antmaze's are r - 1, but 100 r for DMPO_ant."""
    if task.robot != "antmaze":
        return rewards
    return 100 * rewards if policy == "DMPO_ant" else rewards - 1


def value_range(task: d4rl_tasks.Task, rewards: np.ndarray, discount: float) -> tuple[float, float]:
    """Bounds of V's targets: [0, 100] on antmaze, else [min r, max r] / (1 - discount)."""
    if task.robot == "antmaze":
        return 0.0, 100.0
    horizon = 1 / max(1 - discount, 1e-6)
    return float(rewards.min()) * horizon, float(rewards.max()) * horizon


def make_policy(
    arguments: argparse.Namespace,
    hyperparameters,
    dataset: d4rl_tasks.Dataset,
    device: torch.device,
) -> Policy:
    """The policy, with those of its hyperparameters that follow from the run and the data."""
    if hasattr(hyperparameters, "max_timesteps"):
        hyperparameters.max_timesteps = arguments.max_timesteps
    if hasattr(hyperparameters, "value_range"):
        task = BACKENDS[arguments.backend].get_task(arguments.env)
        hyperparameters.value_range = value_range(task, dataset.rewards, hyperparameters.discount)
    sizes = dataset.observations.shape[1], dataset.actions.shape[1]
    policy_class = getattr(policy_module(arguments.policy), arguments.policy)
    return policy_class(*sizes, MAX_ACTION, hyperparameters, device)


def run_name(arguments: argparse.Namespace, policy: Policy, dataset: d4rl_tasks.Dataset) -> str:
    """All that distinguishes a run: options that are not at their defaults, and the data."""
    parser, defaults = make_parser(), type(policy.hp)()
    parts = [arguments.policy, arguments.env, f"seed{arguments.seed}", f"scale{policy.hp.scale:g}"]
    for option in POLICY_OPTIONS:
        value = getattr(policy.hp, option, None)
        if option != "scale" and value != getattr(defaults, option, None):
            parts.append(_name_part(option, value))
    for option in ("backend", "max_timesteps", "batch_size", "normalize"):
        value = getattr(arguments, option)
        if value != parser.get_default(option):
            parts.append(_name_part(option, value))
    if dataset.synthetic:
        parts.append("synthetic")
    if dataset.source == "file":
        parts.append(dataset.sha256[:8])
    if dataset.source.startswith("minari:"):
        parts.append(dataset.source.replace(":", "-").replace("/", "-"))
    return "_".join(parts)


def _name_part(option: str, value: object) -> str:
    if isinstance(value, bool):
        return option if value else f"no-{option}"
    if isinstance(value, tuple):
        return option + "-".join(str(item) for item in value)
    if isinstance(value, str):
        return f"{option}-" + "".join(c if c.isalnum() else "-" for c in value)
    return f"{option}{value:.12g}"


def save_model(
    path: Path, policy: Policy, arguments: argparse.Namespace, scaling: "Scaling"
) -> None:
    """Write everything of a policy to one file.

    Raises:
        DivergedError: a network holds NaN or infinity; the file stays as it is.
    """
    check_finite(policy)
    content = {
        "format": MODEL_FORMAT,
        "policy": arguments.policy,
        "env": arguments.env,
        "hyperparameters": dataclasses.asdict(policy.hp),
        "mean": torch.from_numpy(scaling.mean),
        "std": torch.from_numpy(scaling.std),
        "state": policy.state_dict(),
    }
    with atomic_path(path) as temporary:
        # torch.save to a path would turn a full disk into an error of its own kind.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        temporary.write_bytes(buffer.getbuffer())


def check_finite(policy: Policy) -> None:
    """Raise DivergedError, naming the network, if one holds NaN or infinity."""
    for name, network in policy.networks().items():
        if not all(bool(p.isfinite().all()) for p in network.parameters()):
            raise DivergedError(f"{name} holds NaN or infinity after train step {policy.total_it}")


def load_model(path: Path, policy: Policy, scaling: "Scaling") -> "Scaling":
    """Restore a policy from a file of `save_model`'s. Nothing in the file is executed.

    Returns:
        The scaling of states that the policy was trained with.

    Raises:
        RunError: the file is not there, not ours, damaged, or of another policy or other sizes.
    """
    name = type(policy).__name__
    if not path.is_file():
        raise RunError(f"no model {path}: train one first, or give its path with --load_model")
    try:
        content = torch.load(path, map_location=policy.device, weights_only=True)
        is_ours = content["format"] == MODEL_FORMAT
    except Exception as error:  # torch.load raises whatever the damage leads it to
        raise RunError(f"{path} is no model file of this program, or is damaged") from error
    if not is_ours:
        raise RunError(f"{path} has format {content['format']!r}, not {MODEL_FORMAT!r}")
    if content["policy"] != name:
        raise RunError(f"{path} is a model of {content['policy']}, not of {name}")
    if content["mean"].shape != scaling.mean.shape:
        raise RunError(
            f"{path} is for {len(content['mean'])} state dimensions, not {len(scaling.mean)}"
        )
    try:
        policy.load_state_dict(content["state"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{path} does not fit: it was trained with {content['hyperparameters']}, or by "
            "another version of its policy's source"
        ) from error
    return Scaling(content["mean"].cpu().numpy(), content["std"].cpu().numpy())


@dataclasses.dataclass(frozen=True)
class Scaling:
    """States are seen by policies as (state - mean) / std; (S,) float32 each."""

    mean: np.ndarray
    std: np.ndarray


def evaluate(
    policy: Policy,
    env: str,
    episodes: int,
    seed: int,
    scaling: Scaling,
    is_stopped: Callable[[], bool] = lambda: False,
    backend: ModuleType = d4rl_tasks,
) -> np.ndarray | None:
    """Undiscounted returns of episodes run in lockstep, (episodes,) float64.

    Episode i starts from seed + 100 + i, so that it is the same however many run beside it.

    Args:
        is_stopped: asked at every step; True ends the evaluation, and None is returned.
        backend: one of `BACKENDS`, which makes the environment.
    """
    seeds = [seed + EVAL_SEED_OFFSET + episode for episode in range(episodes)]
    returns = np.zeros(episodes)
    with contextlib.closing(backend.make_vec(env, episodes)) as environment, one_torch_thread():
        observations, _ = environment.reset(seed=seeds)
        while environment.active.any():
            if is_stopped():
                return None
            actions = policy.select_action((observations - scaling.mean) / scaling.std)
            observations, rewards, _, _, _ = environment.step(actions)
            returns += rewards
    return returns


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch with one thread on the CPU, as the environments take all cores.

    Its other threads would go on spinning for a while after every product, against those of the
    environments; and the products of a few states hardly gain from them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def describe_run(
    arguments: argparse.Namespace, run: str, policy: Policy, dataset: d4rl_tasks.Dataset
) -> dict:
    """What <run>.json says: enough to run it again."""
    libraries = {module.__name__: module.__version__ for module in (torch, np, gymnasium)}
    libraries["mujoco"] = version("mujoco")
    if arguments.backend == "d4rl":
        libraries |= original.versions()
    device = policy.device
    return {
        "run": run,
        "command": shlex.join(["python", *sys.argv]),
        "arguments": vars(arguments),
        "hyperparameters": dataclasses.asdict(policy.hp),
        "dataset": {
            "source": dataset.source,
            "path": str(dataset.path),
            "synthetic": dataset.synthetic,
            "transitions": len(dataset.rewards),
            "size": dataset.size,
            "sha256": dataset.sha256,
        },
        "versions": {"python": platform.python_version(), **libraries},
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def git_commit() -> str | None:
    """The commit this program is at, with "+changes" if files differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True)
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout else "")


def print_configuration(config: dict) -> None:
    """Print what distinguishes the run, once."""
    data = config["dataset"]
    kind = "SYNTHETIC dataset" if data["synthetic"] else "dataset"
    print(f"run      {config['run']}")
    print(f"data     {kind}, {data['transitions']} transitions, {data['path']}")
    print(f"device   {config['device']}")
    for name, value in config["hyperparameters"].items():
        print(f"{name:<20}{value}")
    print(flush=True)


class Progress:
    """One bar on a terminal; elsewhere a line for every evaluation."""

    def __init__(self, start: int, steps: int):
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._shown = {"critic_loss": math.nan, "score": math.nan}
        self._start, self._steps, self._since = start, steps, time.monotonic()

    def step(self) -> None:
        """One train step is done."""
        self._bar.update()

    def show(self, **values: float) -> None:
        """Show the last critic loss or normalised score."""
        self._shown |= values
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in self._shown.items()})

    def evaluated(self, row: dict[str, float]) -> None:
        """Show an evaluation."""
        self.show(score=row["score_mean"])
        if not self._bar.disable:
            return
        pace = ""
        if row["step"] > self._start:  # else an evaluation that was due from before
            rate = (row["step"] - self._start) / (time.monotonic() - self._since)
            minutes = (self._steps - row["step"]) / rate / 60
            pace = f"{rate:.1f} steps/s  {minutes:.0f} min left  "
        print(
            f"step {row['step']}/{self._steps}  {pace}"
            f"critic loss {row.get('critic_loss', math.nan):.3f}  "
            f"score {row['score_mean']:.3f} +- {row['score_std']:.3f}  "
            f"return {row['return_mean']:.1f}",
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def seed_everything(seed: int) -> None:
    """Seed the global generators; evaluation and replay sampling have seeds of their own."""
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what a user adds to a policy may draw from it)


def generator_states(device: torch.device, replay_buffer: ReplayBuffer) -> dict:
    """The states of all random generators of a run."""
    states = {
        "random": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "replay_buffer": replay_buffer.generator.get_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: dict, device: torch.device, replay_buffer: ReplayBuffer) -> None:
    """Set all random generators to what `generator_states` returned."""
    random.setstate(states["random"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    replay_buffer.generator.set_state(states["replay_buffer"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def run_settings(
    arguments: argparse.Namespace, policy: Policy, dataset: d4rl_tasks.Dataset
) -> dict:
    """All that decides what a run computes; a checkpoint of other settings is not its own."""
    options = ("policy", "env", "backend", "seed", "max_timesteps", "batch_size", "normalize")
    logs = ("eval_freq", "c_loss_freq", "load_model")
    return {
        **{option: getattr(arguments, option) for option in (*options, *logs)},
        **dataclasses.asdict(policy.hp),
        "dataset's SHA-256": dataset.sha256,
        "device": policy.device.type,
    }


def check_settings(path: Path, saved: dict, settings: dict) -> None:
    """Raise RunError, listing what differs, if a checkpoint is of other settings."""
    if settings["load_model"] == "default":  # which asks for what the checkpoint has
        settings = settings | {"load_model": saved.get("load_model")}
    differences = [
        f"{name} was {saved.get(name)!r}, is {settings.get(name)!r}"
        for name in saved | settings
        if saved.get(name) != settings.get(name)
    ]
    if differences:
        raise RunError(
            f"{path} is of other settings: {'; '.join(differences)}: go back to those, or start "
            "over with --fresh, which sets it aside"
        )


class Training:
    """The loop: train, evaluate, write."""

    def __init__(self, arguments: argparse.Namespace, signals: StopSignals):
        self.arguments = arguments
        self.signals = signals
        self.backend = BACKENDS[arguments.backend]
        self.task = self.backend.get_task(arguments.env)
        device = choose_device(arguments.device_id)
        # Before the dataset: a wrong option must not wait for a download.
        hyperparameters = choose_hyperparameters(arguments)
        self.logger_name = choose_logger(arguments.logger)
        dataset = self.backend.load_dataset(arguments.env, arguments.source)
        seed_everything(arguments.seed)
        self.policy = make_policy(arguments, hyperparameters, dataset, device)
        self.run = run_name(arguments, self.policy, dataset)
        self.results = Results(arguments.policy, self.run)
        self.config = describe_run(arguments, self.run, self.policy, dataset)
        self.settings = run_settings(arguments, self.policy, dataset)
        self.replay_buffer = ReplayBuffer(
            dataset.observations,
            dataset.actions,
            dataset.next_observations,
            training_rewards(arguments.policy, self.task, dataset.rewards),
            dataset.terminals,
            device,
            arguments.seed,
        )
        self.scaling = self._scale_states(dataset.observations.shape[1])
        self.losses = LossLog()
        self.evaluation_due = False
        self.seconds_before = 0.0
        self.run_id = secrets.token_hex(4)
        if arguments.load_model and (arguments.fresh or not self.results.checkpoints.exist()):
            self._load()

    def _scale_states(self, state_dim: int) -> Scaling:
        if self.arguments.normalize:
            return Scaling(*self.replay_buffer.normalize_states())
        return Scaling(np.zeros(state_dim, np.float32), np.ones(state_dim, np.float32))

    def __call__(self) -> None:
        """Run to the last step: from the checkpoint, from a loaded model or from the first.

        Raises:
            StoppedError: a signal came; a checkpoint has been written.
        """
        with self.results.locked():
            found = None if self.arguments.fresh else self.results.checkpoints.read()
            if found is None:
                self._begin()
            else:
                self._resume(*found)
            if self.is_finished:
                self._restore_files()
                print(f"finished {self._last_result()}; --fresh runs it again")
                return
            self._train()

    def _begin(self) -> None:
        self.results.set_aside()
        self.results.write_config(self.config)
        print_configuration(self.config)
        self.evaluation_due = self.policy.total_it >= self.arguments.max_timesteps

    def _load(self) -> None:
        own = self.arguments.load_model == "default"
        path = self.results.model_path if own else Path(self.arguments.load_model)
        saved = load_model(path, self.policy, self.scaling)
        if not np.array_equal(saved.mean, self.scaling.mean):
            print(f"warning: {path} was trained on states of other data", file=sys.stderr)
        # Not the batches and noise of the first steps again.
        seed = self.arguments.seed + self.policy.total_it
        seed_everything(seed)
        self.replay_buffer.generator.manual_seed(seed)

    def _resume(self, path: Path, checkpoint: dict) -> None:
        try:
            check_settings(path, checkpoint["settings"], self.settings)
            self.policy.load_state_dict(checkpoint["policy"])
            self.losses.load_state_dict(checkpoint["losses"])
            self.results.load_state_dict(checkpoint["results"])
            restore_generators(checkpoint["generators"], self.policy.device, self.replay_buffer)
            self.evaluation_due = checkpoint["evaluation_due"]
            self.seconds_before = checkpoint["seconds"]
            self.run_id = checkpoint["run_id"]
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} does not fit the policy as its source now is: undo the change, or start "
                "over with --fresh, which sets the checkpoint aside"
            ) from error
        if self.is_finished:
            return
        self.results.note_resumption(self.config, self.policy.total_it)
        print_configuration(self.config)
        print(f"resumed at step {self.policy.total_it} from {path}", flush=True)

    @property
    def is_finished(self) -> bool:
        """Has the last step been trained and evaluated?"""
        is_last = self.policy.total_it >= self.arguments.max_timesteps
        return is_last and not self.evaluation_due

    def _restore_files(self) -> None:
        """Write what somebody has deleted of a finished run."""
        self.results.restore(self.config)
        path = self.results.model_path
        if self.arguments.save_model and not path.exists():
            save_model(path, self.policy, self.arguments, self.scaling)

    def _last_result(self) -> str:
        score = self.results.rows[-1]["score_mean"]
        return f"{self.run}: score {score:.3f} after {self.policy.total_it} steps"

    def _train(self) -> None:
        last, start = self.arguments.max_timesteps, self.policy.total_it
        self.started = time.monotonic() - self.seconds_before
        with (
            contextlib.closing(Progress(start, last)) as progress,
            self._logging(start),
            self.signals.deferring(),
        ):
            if self.evaluation_due:
                self._evaluate(progress)
                self._save(start)
            step, train_steps = start, self._make_train_steps()
            while step < last:
                for losses in train_steps(self._steps_until_due(step)):
                    step += 1
                    self.losses.add(step, losses)
                    progress.step()
                self._log(step, progress)
                self.evaluation_due = self._is_due(step, self.arguments.eval_freq)
                if self.evaluation_due:
                    self._evaluate(progress)
                if self.signals.is_set() or self._is_due(step, self._checkpoint_freq):
                    self._save(step)

    @contextlib.contextmanager
    def _logging(self, start: int) -> Iterator[None]:
        folder = self.results.tensorboard_folder
        self.logger = make_logger(self.logger_name, folder, self.run_id, self.config, start)
        with contextlib.closing(self.logger):
            yield
            self.logger.finish(self.results.rows[-1], self._figures())

    def _figures(self) -> dict:
        """What report.py draws of this run; nothing without a logger or the packages to draw it."""
        if self.logger_name == "none":
            return {}
        model = self.results.model_path if self.arguments.save_model else None
        try:
            from reports.whole import figures_of_run

            return figures_of_run(self.results.config_path, model, self.arguments.seed)
        except ModuleNotFoundError:
            return {}
        except Exception as error:  # the run is done: none of its pictures may fail it
            print(f"warning: no figures are logged: {one_line(error)}", file=sys.stderr)
            return {}

    def _make_train_steps(self) -> TrainSteps:
        is_captured = self.policy.device.type == "cuda" and not self.arguments.no_cuda_graph
        kind = CapturedTrainSteps if is_captured else TrainSteps
        return kind(self.policy, self.replay_buffer, self.arguments.batch_size)

    def _steps_until_due(self, step: int) -> int:
        """Train steps up to the next that something is due after, or to the last."""
        logs = LOSS_CHECK_FREQ, self.arguments.c_loss_freq
        frequencies = *logs, self.arguments.eval_freq, self._checkpoint_freq
        left = self.arguments.max_timesteps - step
        return min(left, *(frequency - step % frequency for frequency in frequencies))

    def _is_due(self, step: int, frequency: int) -> bool:
        return step % frequency == 0 or step == self.arguments.max_timesteps

    @property
    def _checkpoint_freq(self) -> int:
        return self.arguments.checkpoint_freq or self.arguments.eval_freq

    def _log(self, step: int, progress: Progress) -> None:
        is_log_line = step % self.arguments.c_loss_freq == 0
        if is_log_line or step % LOSS_CHECK_FREQ == 0:
            self.losses.read()
        if is_log_line:
            self.results.critic_losses.append(self.losses.take_critic_mean())
            progress.show(critic_loss=self.results.critic_losses[-1])

    def _save(self, step: int) -> None:
        """Write a checkpoint, and stop if a signal asks for it."""
        self.losses.read()
        check_finite(self.policy)
        self.results.checkpoints.write(
            {
                "settings": self.settings,
                "policy": self.policy.state_dict(),
                "losses": self.losses.state_dict(),
                "results": self.results.state_dict(),
                "generators": generator_states(self.policy.device, self.replay_buffer),
                "evaluation_due": self.evaluation_due,
                "seconds": time.monotonic() - self.started,
                "run_id": self.run_id,
            }
        )
        if self.signals.is_set() and not self.is_finished:
            raise StoppedError(
                self.signals.received,
                f"stopped at step {step} with a checkpoint: the same command goes on from there",
            )

    def _evaluate(self, progress: Progress) -> None:
        """Evaluate and write the results, unless a signal comes in between: then it stays due."""
        self.losses.read()
        check_finite(self.policy)
        step = self.policy.total_it
        if self.arguments.save_model:
            save_model(self.results.model_path, self.policy, self.arguments, self.scaling)
        is_last = step >= self.arguments.max_timesteps
        episodes = LAST_EVAL_EPISODES.get(self.task.robot) if is_last else None
        returns = evaluate(
            self.policy,
            self.task.name,
            episodes or EVAL_EPISODES,
            self.arguments.seed,
            self.scaling,
            self.signals.is_set,
            self.backend,
        )
        if returns is None:
            return
        scores = self.backend.normalized_score(self.task.name, returns)
        row = {
            "step": step,
            "wall_time": round(time.monotonic() - self.started, 3),
            "score_mean": float(scores.mean()),
            "score_std": float(scores.std()),
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            **self.losses.take_means(),
        }
        self.results.rows.append(row)
        self.results.write_logs()
        self.logger.evaluated(row)
        self.evaluation_due = False
        progress.evaluated(row)


def is_out_of_memory(error: Exception) -> bool:
    """Is it what Python, NumPy, or PyTorch on a GPU or CPU raise when memory is short?"""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    try:
        with StopSignals() as signals:
            Training(arguments, signals)()
    except (RunError, d4rl_tasks.D4RLTaskError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except DivergedError as error:
        print(f"error: {error}; the last good model and checkpoint are kept", file=sys.stderr)
        return 1
    except StoppedError as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except OSError as error:  # the disk of a log, a pipe that is closed
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "error: out of memory: give a smaller --batch_size, --hidden or --latent_disc_dim",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
