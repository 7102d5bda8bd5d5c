"""Train a robot's behaviour policies with TQC or SAC from SBX, as those in `behaviours/` were.

    pip install sbx-rl==0.28.0
    python -m d4rl_tasks.synthetic.train_behaviour halfcheetah --steps 250000 --out my_behaviours
    python -m d4rl_tasks.synthetic.train_behaviour walker2d --algorithm SAC --out my_behaviours
    python -m d4rl_tasks.synthetic.train_behaviour halfcheetah --steps 750000 --out my_behaviours \\
        --continue-from 250000

A checkpoint is written every 50,000 environment steps, and `manifest.json` with its returns over
ten episodes. `--continue-from` resumes from a packaged checkpoint. A checkpoint holds an actor
alone, so its replay buffer is collected again, by all packaged checkpoints up to it, and critics
are fitted to that before the actor moves.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from d4rl_tasks.command_line import Parser, number, run_program
from d4rl_tasks.environments import LockstepVectorEnv, make, make_vec
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import atomic_path
from d4rl_tasks.synthetic.behaviours import Behaviour, load_behaviour, read_manifest
from d4rl_tasks.tasks import normalized_score

CHECKPOINT_STEPS = 50_000
REFILL_STEPS = 20_000
CRITIC_STEPS = 20_000
BLOCK = 50
LEARNING_RATE = 3e-4
# Of 25 atoms of each critic; the best numbers of the TQC paper (Kuznetsov et al. 2020, appendix).
DROPPED_ATOMS = {"halfcheetah": 0, "hopper": 5, "walker2d": 2, "ant": 2}
FLAX_LAYERS = {"layer0": "Dense_0", "layer1": "Dense_1", "mean": "Dense_2", "log_std": "Dense_3"}


def make_model(algorithm: str, robot: str, seed: int, entropy: str):
    """A model of SBX; one gradient step per environment step.

    Args:
        algorithm: "SAC", with networks and batches as D4RL's behaviours had them; or "TQC", with
            smaller ones and layer-normalised critics, which learns in fewer steps.
        robot: its environment is the expert task's.
        seed: of everything.
        entropy: SBX's `ent_coef`.
    """
    try:
        import sbx
    except ImportError as error:
        raise D4RLTaskError(f"training needs SBX ({error}): pip install sbx-rl==0.28.0") from error
    kwargs: dict[str, Any]
    if algorithm == "SAC":
        kwargs = {"batch_size": 256, "policy_kwargs": {"net_arch": [256, 256]}}
    else:
        networks = {"net_arch": {"pi": [128, 128], "qf": [192, 192]}, "layer_norm": True}
        kwargs = {"batch_size": 128, "policy_kwargs": networks}
        kwargs["top_quantiles_to_drop_per_net"] = DROPPED_ATOMS[robot]
    return getattr(sbx, algorithm)(
        "MlpPolicy",
        make(f"{robot}-expert-v2"),
        learning_rate=LEARNING_RATE,
        buffer_size=1_000_000,
        learning_starts=5_000,
        train_freq=BLOCK,
        gradient_steps=BLOCK,
        ent_coef=entropy,
        seed=seed,
        **kwargs,
    )


def actor_weights(model) -> dict[str, np.ndarray]:
    """The actor's weights under the names of the .npz files."""
    layers = model.policy.actor_state.params["params"]
    weights = {}
    for ours, theirs in FLAX_LAYERS.items():
        weights[f"{ours}_weight"] = np.asarray(layers[theirs]["kernel"], dtype=np.float32)
        weights[f"{ours}_bias"] = np.asarray(layers[theirs]["bias"], dtype=np.float32)
    return weights


def set_actor_weights(model, weights: dict[str, np.ndarray]) -> None:
    """Put a checkpoint's weights into the actor."""
    layers = {
        theirs: {"kernel": weights[f"{ours}_weight"], "bias": weights[f"{ours}_bias"]}
        for ours, theirs in FLAX_LAYERS.items()
    }
    state = model.policy.actor_state
    model.policy.actor_state = state.replace(params={"params": layers})


def refill(model, robot: str, behaviours: list[Behaviour], seed: int) -> None:
    """Fill the replay buffer with transitions of the given behaviours, sampled."""
    rng = np.random.default_rng(seed)
    for behaviour in behaviours:
        environment = make(f"{robot}-expert-v2")
        observation, _ = environment.reset(seed=seed + behaviour.training_steps)
        for _ in range(REFILL_STEPS):
            noise = rng.standard_normal((1, np.size(behaviour.weights["mean_bias"])))
            action, _ = behaviour.sample(observation[None], noise)
            following, reward, terminated, truncated, _ = environment.step(action[0])
            info = {"TimeLimit.truncated": truncated and not terminated}
            done = np.array([terminated or truncated])
            model.replay_buffer.add(
                observation[None], following[None], action, np.array([reward]), done, [info]
            )
            observation = following
            if terminated or truncated:
                observation, _ = environment.reset()


def warm_up_critics(model) -> None:
    """Fit the critics to the refilled buffer while the actor stands still."""
    from stable_baselines3.common.logger import configure

    model.set_logger(configure(None, []))
    model.policy_delay = CRITIC_STEPS + 1
    # In one call: SBX compiles its loop again for every phase of the policy delay.
    model.train(CRITIC_STEPS, model.batch_size)
    model.policy_delay = 1
    model.learning_starts = 0


def returns_of(environment: LockstepVectorEnv, behaviour: Behaviour, sampled: bool) -> np.ndarray:
    """(num_envs,) undiscounted returns of one episode in each environment, the same every time."""
    rng = np.random.default_rng(0)
    observation, _ = environment.reset(seed=0)
    total = np.zeros(environment.num_envs)
    while environment.active.any():
        noise = rng.standard_normal(environment.action_space.shape)
        action = behaviour.sample(observation, noise * sampled)[0]
        observation, reward, _, _, _ = environment.step(action)
        total += reward
    return total


def manifest_entry(robot: str, behaviour: Behaviour) -> dict:
    """Measure a behaviour over ten episodes, acting by the mean and by sampling."""
    environment = make_vec(f"{robot}-expert-v2", 10)
    entry = {
        "file": behaviour.name + ".npz",
        "algorithm": behaviour.algorithm,
        "training_steps": behaviour.training_steps,
    }
    for way in ("mean", "sampled"):
        returns = returns_of(environment, behaviour, way == "sampled")
        score = normalized_score(environment.task.name, returns.mean())
        entry[f"return_{way}"] = round(float(returns.mean()), 1)
        entry[f"return_{way}_std"] = round(float(returns.std()), 1)
        entry[f"score_{way}"] = round(float(score), 3)
    environment.close()
    return entry


def save_checkpoint(model, robot: str, training_steps: int, out: Path) -> dict:
    """Write the actor as a behaviour, add it to the folder's manifest, return its entry."""
    name = f"{robot}/{training_steps:07d}"
    algorithm = type(model).__name__
    behaviour = Behaviour(name, training_steps, actor_weights(model), algorithm)
    (out / robot).mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / f"{name}.npz", allow_pickle=False, **behaviour.weights)
    entry = manifest_entry(robot, behaviour)
    path = out / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    manifest.setdefault(robot, []).append(entry)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    return entry


def packaged(robot: str, algorithm: str, start: int) -> list[Behaviour]:
    """The packaged behaviours of a training run up to the checkpoint at `start` steps.

    Raises:
        D4RLTaskError: no checkpoint was saved at that step.
    """
    entries = [e for e in read_manifest().get(robot, []) if e["algorithm"] == algorithm]
    steps = [entry["training_steps"] for entry in entries]
    if start not in steps:
        raise D4RLTaskError(
            f"--continue-from is {start}: packaged checkpoints of {robot} by {algorithm} are at "
            f"{', '.join(map(str, steps)) or 'no'} steps"
        )
    return [load_behaviour(entry["file"]) for entry in entries[: steps.index(start) + 1]]


def train(
    robot: str,
    algorithm: str,
    steps: int,
    anneal: int,
    out: Path,
    seed: int,
    continue_from: int | None,
) -> None:
    """Train for `steps` environment steps and save a checkpoint every 50,000.

    The learning rate falls to 0 over the last `anneal` steps.

    Raises:
        D4RLTaskError: `out` already has behaviours for the robot, or no checkpoint was saved at
            `continue_from`.
    """
    if (out / robot).exists():
        raise D4RLTaskError(f"{out / robot} exists already: give another folder as --out")
    behaviours = packaged(robot, algorithm, continue_from) if continue_from else []
    model = make_model(algorithm, robot, seed, entropy="auto_0.1" if behaviours else "auto")
    if behaviours:
        set_actor_weights(model, behaviours[-1].weights)
        refill(model, robot, behaviours, seed)
        warm_up_critics(model)
    last = steps - steps % CHECKPOINT_STEPS
    if anneal:
        model.lr_schedule = lambda _: (
            LEARNING_RATE * min(1.0, (last - model.num_timesteps) / anneal)
        )
    start = continue_from or 0
    for done in range(CHECKPOINT_STEPS, last + 1, CHECKPOINT_STEPS):
        model.learn(CHECKPOINT_STEPS, reset_num_timesteps=done == CHECKPOINT_STEPS)
        print(json.dumps(save_checkpoint(model, robot, start + done, out)))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m d4rl_tasks.synthetic.train_behaviour",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("robot", choices=list(DROPPED_ATOMS))
    parser.add_argument(
        "--algorithm", choices=["TQC", "SAC"], default="TQC", help="default: %(default)s"
    )
    parser.add_argument(
        "--steps",
        type=number(int, CHECKPOINT_STEPS),
        default=500_000,
        help="environment steps (default: %(default)s)",
    )
    parser.add_argument(
        "--anneal",
        type=number(int, 0),
        default=0,
        help="steps at the end over which the learning rate falls to 0 (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="default: %(default)s")
    parser.add_argument(
        "--continue-from", type=number(int, 1), help="training steps of a packaged checkpoint"
    )
    options = parser.parse_args(arguments)
    return run_program(lambda: train(**vars(options)))


if __name__ == "__main__":
    sys.exit(main())
