"""Our IQL and AWAC against d3rlpy's, on the same data, hyperparameters and evaluation.

    pip install --no-deps -r tests/requirements-d3rlpy.txt
    python -m benchmarks.against_d3rlpy --out FOLDER [--steps 30000] [--seeds 1 2 3]

Both train on the synthetic dataset of hopper-medium-expert-v2, whose states are normalised before
either sees them, and both are evaluated by `experiment.evaluation.evaluate` from the same starts.
Our IQL has one log std for all states, as d3rlpy's, or one for each state.
Writes `against_d3rlpy.csv`, a line for every evaluation; `.md`, the table; and `.png` (which needs
matplotlib). A run that is in the folder's CSV is not run again; those of docs/ are in docs/.
"""

import csv
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import d3rlpy
import h5py
import numpy as np
import structlog
import torch
from d3rlpy.models.torch import get_parameter

import d4rl_tasks
from AWAC import AWAC
from AWAC import Hyperparameters as AWACHyperparameters
from d4rl_tasks.command_line import Parser
from d4rl_tasks.files import atomic_path
from experiment.evaluation import Normalizer, evaluate
from experiment.generators import seed_everything
from IQL import IQL
from IQL import Hyperparameters as IQLHyperparameters
from speed.memory import keep_freed_memory
from utils import Policy, ReplayBuffer, RunSpec

TASK = "hopper-medium-expert-v2"
EVAL_FREQ = 5_000
EVAL_EPISODES = 10
LAST = 3  # evaluations in a run's final mean
BATCH_SIZE = 256
LEARNING_RATE = 3e-4
DISCOUNT = 0.99
TAU = 0.005
EXPECTILE = 0.9
SCALE = 0.3  # d3rlpy's `weight_temp` (its default is 3) and 1 / `lam` (its default is 1)
VALUE_SAMPLES = 5

OURS, THEIRS = "ours", "d3rlpy"
STATE_STD, UNCHANGED = "ours, --log_std state", "d3rlpy, its entropy term kept"
PAIRS = [("IQL", OURS), ("IQL", STATE_STD), ("IQL", THEIRS)]
PAIRS += [("AWAC", OURS), ("AWAC", THEIRS), ("AWAC", UNCHANGED)]
# Colours that differ in brightness too, and for every kind of colour vision.
COLORS = {OURS: "#0072b2", STATE_STD: "#56b4e9", THEIRS: "#e69f00", UNCHANGED: "#999999"}
MARKERS = {OURS: "o-", STATE_STD: "v-.", THEIRS: "s--", UNCHANGED: "^:"}


@dataclass(frozen=True)
class Evaluation:
    """Mean normalised score of the episodes at one step, times 100."""

    algorithm: str
    implementation: str
    seed: int
    step: int
    score: float
    train_seconds: float  # since the run's start, without evaluations


@dataclass(frozen=True)
class Data:
    """The dataset, d3rlpy's form of it, and how the states of that were normalised."""

    dataset: d4rl_tasks.Dataset
    theirs: d3rlpy.dataset.MDPDataset
    normalizer: Normalizer


class Greedy:
    """d3rlpy's algorithm, as far as `experiment.evaluation.evaluate` asks for a policy."""

    def __init__(self, algorithm: d3rlpy.algos.QLearningAlgoBase):
        self.select_action = algorithm.predict


def fill_buffer(data: d4rl_tasks.Dataset, seed: int) -> tuple[ReplayBuffer, Normalizer]:
    """Our replay buffer, with normalised states."""
    states = (data.observations, data.actions, data.next_observations)
    buffer = ReplayBuffer(*states, data.rewards, data.terminals, seed=seed)
    return buffer, Normalizer(*buffer.normalize_states())


def load_data() -> Data:
    """Read the synthetic dataset, generating it first if it isn't there."""
    dataset = d4rl_tasks.load_dataset(TASK, "synthetic")
    _, normalizer = fill_buffer(dataset, 0)
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(dataset.path) as file:
        arrays = {key: file[key][()] for key in keys}
    arrays["observations"] = (arrays["observations"] - normalizer.mean) / normalizer.std
    return Data(dataset, d3rlpy.dataset.MDPDataset(**arrays), normalizer)


def make_ours(algorithm: str, state_std: bool, data: Data, steps: int) -> Policy:
    """One of our policies, aligned: d3rlpy updates actor and targets on every step."""
    common = {"discount": DISCOUNT, "tau": TAU, "learning_rate": LEARNING_RATE, "policy_freq": 1}
    sizes = data.dataset.observations.shape[1], data.dataset.actions.shape[1]
    spec = RunSpec(*sizes, train_steps=steps)
    if algorithm == "IQL":
        log_std = "state" if state_std else "global"
        own = {"expectile": EXPECTILE, "scale": SCALE, "weight_type": "clamp", "log_std": log_std}
        return IQL(spec, IQLHyperparameters(**common, **own))
    own = {"scale": SCALE, "weight_type": "raw", "value_samples": VALUE_SAMPLES}
    return AWAC(spec, AWACHyperparameters(**common, **own))


def make_theirs(algorithm: str, keep_entropy: bool, data: Data, steps: int):
    """One of d3rlpy's algorithms, aligned: the cosine schedule of our IQL's actor.

    Args:
        keep_entropy: leave AWAC's critic as it is: its targets, inherited from SAC, hold the
            policy's entropy with a temperature of 1, which is not part of AWAC.
    """
    common = {
        "batch_size": BATCH_SIZE,
        "gamma": DISCOUNT,
        "tau": TAU,
        "actor_learning_rate": LEARNING_RATE,
        "critic_learning_rate": LEARNING_RATE,
    }
    if algorithm == "IQL":
        cosine = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps)
        return d3rlpy.algos.IQLConfig(
            **common,
            expectile=EXPECTILE,
            weight_temp=SCALE,
            max_weight=100.0,
            actor_optim_factory=d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=cosine),
        ).create(device="cpu")
    awac = d3rlpy.algos.AWACConfig(**common, lam=1 / SCALE, n_action_samples=VALUE_SAMPLES).create(
        device="cpu"
    )
    if not keep_entropy:
        awac.build_with_dataset(data.theirs)
        torch.nn.init.constant_(get_parameter(awac.impl.modules.log_temp), -math.inf)
    return awac


def train_ours(
    algorithm: str, state_std: bool, data: Data, seed: int, steps: int
) -> Iterator[Policy]:
    """Yields the policy after every EVAL_FREQ steps."""
    seed_everything(seed)
    policy = make_ours(algorithm, state_std, data, steps)
    buffer, _ = fill_buffer(data.dataset, seed)
    for step in range(1, steps + 1):
        policy.train(buffer, BATCH_SIZE)
        if step % EVAL_FREQ == 0:
            yield policy


def train_theirs(
    algorithm: str, keep_entropy: bool, data: Data, seed: int, steps: int
) -> Iterator[Greedy]:
    """Yields the policy after every EVAL_FREQ steps."""
    d3rlpy.seed(seed)
    theirs = make_theirs(algorithm, keep_entropy, data, steps)
    epochs = theirs.fitter(
        data.theirs,
        n_steps=steps,
        n_steps_per_epoch=EVAL_FREQ,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    for _ in epochs:
        yield Greedy(theirs)


def run(
    algorithm: str, implementation: str, data: Data, seed: int, steps: int
) -> Iterator[Evaluation]:
    """Train, and evaluate every EVAL_FREQ steps."""
    if implementation in (OURS, STATE_STD):
        policies = train_ours(algorithm, implementation == STATE_STD, data, seed, steps)
    else:
        policies = train_theirs(algorithm, implementation == UNCHANGED, data, seed, steps)
    seconds, since = 0.0, time.perf_counter()
    for index, policy in enumerate(policies, start=1):
        seconds += time.perf_counter() - since
        score = 100 * evaluate(policy, data.normalizer, TASK, EVAL_EPISODES, seed).scores.mean()
        evaluation = Evaluation(
            algorithm, implementation, seed, index * EVAL_FREQ, round(score, 2), round(seconds, 1)
        )
        print(*asdict(evaluation).values(), sep="  ", flush=True)
        yield evaluation
        since = time.perf_counter()


def read(path: Path) -> list[Evaluation]:
    """The evaluations in a CSV; none if it does not exist."""
    if not path.exists():
        return []
    kinds = Evaluation.__annotations__
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Evaluation(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)
        ]


def write(path: Path, evaluations: list[Evaluation]) -> None:
    """Write a CSV, whole or not at all."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(Evaluation.__annotations__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in evaluations)


def run_all(
    evaluations: list[Evaluation], path: Path, seeds: list[int], steps: int
) -> list[Evaluation]:
    """Those and all other runs, seed by seed; each is written to `path` when it is done."""
    done = {(one.algorithm, one.implementation, one.seed) for one in evaluations}
    order = [(*pair, seed) for seed, pair in product(seeds, PAIRS)]
    order.sort(key=lambda job: job[1] == UNCHANGED)  # what matters least comes last
    todo = [job for job in order if job not in done]
    data = load_data() if todo else None
    for algorithm, implementation, seed in todo:
        evaluations = evaluations + list(run(algorithm, implementation, data, seed, steps))
        write(path, evaluations)
    return evaluations


def pairs_of(evaluations: list[Evaluation]) -> list[tuple[str, str]]:
    """Those of PAIRS that have been run."""
    done = {(one.algorithm, one.implementation) for one in evaluations}
    return [pair for pair in PAIRS if pair in done]


def scores(evaluations: list[Evaluation], algorithm: str, implementation: str) -> np.ndarray:
    """(seeds, evaluations) scores of one algorithm by one implementation."""
    pair = (algorithm, implementation)
    rows = [one for one in evaluations if (one.algorithm, one.implementation) == pair]
    seeds = sorted({one.seed for one in rows})
    return np.array([[one.score for one in rows if one.seed == seed] for seed in seeds])


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds, and the seeds."""
    singles = ", ".join(f"{value:.1f}" for value in values)
    if len(values) == 1:
        return singles
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f} ({singles})"


def table(evaluations: list[Evaluation]) -> str:
    """Markdown: final scores and times, a line for every algorithm and implementation."""
    lines = [
        f"| algorithm | implementation | last evaluation | mean of the last {LAST} | ms a step |",
        "|---|---|---|---|---|",
    ]
    for algorithm, implementation in pairs_of(evaluations):
        values = scores(evaluations, algorithm, implementation)
        pair = (algorithm, implementation)
        rate = min(
            1_000 * one.train_seconds / one.step
            for one in evaluations
            if (one.algorithm, one.implementation) == pair
        )
        cells = (*pair, spread(values[:, -1]), spread(values[:, -LAST:].mean(1)), f"{rate:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(evaluations: list[Evaluation], path: Path) -> None:
    """A panel for each algorithm: mean and standard deviation over seeds, and thin each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = sorted({one.step / 1_000 for one in evaluations})
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    for axis, algorithm in zip(axes, ("IQL", "AWAC"), strict=True):
        for name, implementation in pairs_of(evaluations):
            if name != algorithm:
                continue
            values = scores(evaluations, algorithm, implementation)
            color, style = COLORS[implementation], MARKERS[implementation]
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            axis.fill_between(steps, mean - deviation, mean + deviation, color=color, alpha=0.12)
            axis.plot(steps, values.T, style[1:], color=color, linewidth=0.6, alpha=0.4)
            axis.plot(steps, mean, style, color=color, linewidth=2, label=implementation)
        axis.set_title(f"{algorithm} on synthetic {TASK}")
        axis.set_xlabel("train steps (thousands)")
        axis.set_ylim(0, 110)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    axes[0].set_ylabel("normalised score (100: expert)")
    figure.supxlabel("thick: mean; band: standard deviation; thin: each seed", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main() -> None:
    """Run what is left, print and write the table, draw the figure."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=30_000, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--out", type=Path, required=True, help="folder of what it writes")
    arguments = parser.parse_args()
    path = arguments.out / "against_d3rlpy.csv"
    evaluations = read(path)
    if arguments.steps < EVAL_FREQ or arguments.steps % EVAL_FREQ:
        parser.error(f"--steps must be a multiple of {EVAL_FREQ}")
    if evaluations and evaluations[-1].step != arguments.steps:
        parser.error(f"{path} is of {evaluations[-1].step} steps: give those, or another --out")
    keep_freed_memory()  # for d3rlpy's steps too
    errors_only = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_only)  # d3rlpy's progress
    evaluations = run_all(evaluations, path, arguments.seeds, arguments.steps)
    text = table(evaluations)
    print(text)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    draw(evaluations, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
