"""Policies, and the files that hold them. Nothing in a file is executed."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import d4rl_tasks
from d4rl_tasks.errors import reason_of
from experiment.checks import difference, policy_difference
from experiment.diagnostics import return_range
from experiment.errors import DivergedError, RunError
from experiment.evaluation import Normalizer
from experiment.files import DamagedError, read_content, write_content
from experiment.options import POLICIES, Options, policy_class, policy_module
from experiment.results import MODELS
from experiment.settings import make_settings, run_name
from utils import Policy, ReplayBuffer, RunSpec

MAX_ACTION = 1.0


def make_spec(
    policy: str,
    hyperparameters: Any,
    dataset: d4rl_tasks.Dataset,
    is_antmaze: bool,
    train_steps: int,
) -> RunSpec:
    """The facts of a run on a dataset that a policy needs.

    Raises:
        RunError: targets are to be clipped to returns that the dataset does not show.
    """
    rewards = policy_class(policy).training_rewards(dataset.rewards, is_antmaze)
    returns = return_range(dataset, rewards, getattr(hyperparameters, "discount", 0.0))
    if getattr(hyperparameters, "target_clip", "") == "data" and not math.isfinite(returns[1]):
        raise RunError(
            "--target_clip data needs transitions in time order, and this dataset's are "
            "shuffled: give --target_clip rewards"
        )
    return RunSpec(
        state_dim=dataset.observations.shape[1],
        action_dim=dataset.actions.shape[1],
        max_action=MAX_ACTION,
        reward_range=(float(rewards.min()), float(rewards.max())),
        return_range=returns,
        train_steps=train_steps,
        is_antmaze=is_antmaze,
    )


def save_model(path: Path, policy: Policy, normalizer: Normalizer, config: dict) -> None:
    """Write everything of a policy, and its run's JSON, to one file."""
    content = {
        "config": config,
        "spec": dataclasses.asdict(policy.spec),
        "hyperparameters": dataclasses.asdict(policy.hp),
        "mean": torch.from_numpy(normalizer.mean),
        "std": torch.from_numpy(normalizer.std),
        "policy": policy.state_dict(),
    }
    write_content(path, content)


def check_finite(policy: Policy) -> None:
    """Raise DivergedError, naming the network, if one holds NaN or infinity. Waits once."""
    finite = {
        name: torch.stack([parameter.detach().isfinite().all() for parameter in parameters]).all()
        for name, network in policy.networks().items()
        if (parameters := list(network.parameters()))
    }
    if not finite:
        return
    for name, is_finite in zip(finite, torch.stack(list(finite.values())).tolist(), strict=True):
        if not is_finite:
            raise DivergedError(
                f"{name} holds NaN or infinity after train step {policy.total_it}; the last good "
                "model and checkpoint are kept"
            )


def load_policy(path: str | Path, device: torch.device | str = "cpu") -> tuple[Policy, Normalizer]:
    """Load models/<run>.safetensors.

    Returns:
        the policy, and the normaliser that turns observations into its states.

    Raises:
        RunError: it is not there, not ours, damaged, or of another version of the policy.
    """
    path = Path(path)
    content = _read(path)
    name = content["config"]["settings"]["policy"]
    try:
        given = {key: _as_tuple(value) for key, value in content["hyperparameters"].items()}
        hyperparameters = policy_module(name).Hyperparameters(**given)
        spec = RunSpec(**{key: _as_tuple(value) for key, value in content["spec"].items()})
        policy = policy_class(name)(spec, hyperparameters, device)
        problem = policy_difference(policy, content["policy"])
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        problem = reason_of(error)
    if problem:
        raise RunError(f"{path} does not fit this version of {name} ({problem}): train it again")
    policy.load_state_dict(content["policy"])
    normalizer = _normalizer(path, content, spec.state_dim)
    return policy, normalizer


def read_model_info(path: str | Path) -> dict[str, Any]:
    """The content of a model's <run>.json, which the model's file holds too.

    Raises:
        RunError: as `load_policy`.
    """
    return _read(Path(path))["config"]


def make_buffer(
    dataset: d4rl_tasks.Dataset, policy: Policy, seed: int, normalize: bool
) -> tuple[ReplayBuffer, Normalizer]:
    """The replay buffer of a run, with rewards and states as the policy trains on them."""
    replay_buffer = ReplayBuffer(
        dataset.observations,
        dataset.actions,
        dataset.next_observations,
        policy.training_rewards(dataset.rewards, policy.spec.is_antmaze),
        dataset.terminals,
        policy.device,
        seed,
    )
    if normalize:
        return replay_buffer, Normalizer(*replay_buffer.normalize_states())
    size = policy.spec.state_dim
    return replay_buffer, Normalizer(np.zeros(size, np.float32), np.ones(size, np.float32))


def find_model(options: Options, dataset: d4rl_tasks.Dataset) -> Path | None:
    """The file of --load_model; "default" is the model of the same run without that option.

    Raises:
        RunError: the default is not there; the command line has checked a path.
    """
    given = options.run.load_model
    if given != "default":
        return Path(given) if given else None
    own = run_name(make_settings(options, dataset, None), dataset, options.run.name)
    path = MODELS / f"{own}.safetensors"
    if not path.is_file():
        raise RunError(f"the model {path} does not exist: give the path of a .safetensors file")
    return path


def load_weights(path: Path, policy: Policy, normalizer: Normalizer, dataset_sha256: str) -> None:
    """Start a policy from the networks and the optimisers' moments of a saved one, at step 0.

    A warning says so if that one saw other data, or states that were normalised otherwise.

    Args:
        normalizer, dataset_sha256: of the run that starts.

    Raises:
        RunError: as `load_policy`, or it is of another policy or other sizes.
    """
    content = _read(path)
    settings, name = content["config"]["settings"], type(policy).__name__
    if settings["policy"] != name:
        raise RunError(f"{path} is a model of {settings['policy']}, not of {name}")
    problem = policy_difference(policy, content["policy"])
    if problem:
        raise RunError(f"{path} does not fit this run ({problem}): give its hyperparameters")
    state = policy.state_dict()
    for key, part in policy.parts().items():
        saved = content["policy"][key]
        if isinstance(part, torch.optim.Optimizer):
            state[key] = {"state": saved["state"], "param_groups": state[key]["param_groups"]}
        elif isinstance(part, torch.nn.Module):
            state[key] = saved
    policy.load_state_dict(state)
    saved = _normalizer(path, content, policy.spec.state_dim)
    if settings.get("dataset_sha256") != dataset_sha256:
        print(f"warning: {path} was trained on another dataset", file=sys.stderr)
    elif not saved.is_as(normalizer):
        print(f"warning: {path} was trained with a different --normalize", file=sys.stderr)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise RunError(
            f"the model {path} does not exist: main_training.py writes models/<run>.safetensors"
        )
    if path.suffix == ".pt":
        raise RunError(f"{path} is a model of an older version: train it again")
    try:
        content = read_content(path)
        _check_outline(content)
    except (DamagedError, OSError) as error:
        raise RunError(f"{path} {error}") from error
    return content


def _check_outline(content: dict[str, Any]) -> None:
    parts: dict[str, type] = {"config": dict, "spec": dict, "hyperparameters": dict, "policy": dict}
    parts |= {"mean": torch.Tensor, "std": torch.Tensor}
    for name, kind in parts.items():
        if not isinstance(content.get(name), kind):
            raise DamagedError(f"is not a model of this program: it holds no {name}")
    settings = content["config"].get("settings")
    if not isinstance(settings, dict) or settings.get("policy") not in POLICIES:
        raise DamagedError(f"is of an unknown policy; this version has {', '.join(POLICIES)}")


def _normalizer(path: Path, content: dict[str, Any], state_dim: int) -> Normalizer:
    expected = torch.zeros(state_dim)
    for name in ("mean", "std"):
        problem = difference(expected, content[name], name)
        if problem:
            raise RunError(f"{path} is damaged ({problem})")
    return Normalizer(content["mean"].numpy(), content["std"].numpy())


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
