"""The settings: one dict of all that decides what a run computes, and a name made from it."""

import dataclasses
import hashlib
import json
import platform
import re
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import d4rl_tasks
from d4rl_tasks import original
from experiment.options import Options, hyperparameters_of, policy_class

Settings = dict[str, Any]
LONGEST_NAME = 150  # characters, before the hash; file systems allow 255 with the suffixes


def make_settings(
    options: Options, dataset: d4rl_tasks.Dataset, load_model_sha256: str | None
) -> Settings:
    """All that decides what a run computes, as JSON would give it back."""
    return option_settings(options) | {
        "dataset_sha256": dataset_sha256(dataset),
        "load_model_sha256": load_model_sha256,
    }


def option_settings(options: Options) -> Settings:
    """The settings that the command line and the policy's source decide, without the data.

    Options that are missing here (how often it is evaluated, logged or saved, and where) change
    nothing in the results. The number of train steps is a setting only of policies that depend on
    it: for the others, more steps continue the run.
    """
    run = options.run
    # Gymnasium's name of a task has a prefix.
    env = run.env.removeprefix("d4rl/") if run.backend == "d4rl_tasks" else run.env
    settings = {
        "policy": run.policy,
        "env": env,
        **{name: getattr(run, name) for name in ("backend", "seed", "batch_size", "normalize")},
        **dataclasses.asdict(options.hyperparameters),
    }
    if policy_class(run.policy).depends_on_train_steps:
        settings["max_timesteps"] = run.max_timesteps
    return json.loads(json.dumps(settings))


def dataset_sha256(dataset: d4rl_tasks.Dataset) -> str:
    """The SHA-256 of a dataset's file, or of its arrays where it has no single file."""
    if dataset.sha256:
        return dataset.sha256
    digest = hashlib.sha256()
    for field in ("observations", "actions", "next_observations", "rewards", "terminals"):
        digest.update(np.ascontiguousarray(getattr(dataset, field)).data)
    return digest.hexdigest()


def run_name(settings: Settings, dataset: d4rl_tasks.Dataset, prefix: str = "") -> str:
    """Policy, task, seed, hyperparameters that are not at their defaults, and a hash of all."""
    defaults = json.loads(json.dumps(dataclasses.asdict(hyperparameters_of(settings["policy"]))))
    parts = [prefix] if prefix else []
    parts += [settings["policy"], settings["env"], f"seed{settings['seed']}"]
    parts += [
        _name_part(name, settings[name])
        for name, default in defaults.items()
        if settings[name] != default
    ]
    if dataset.synthetic:
        parts.append("synthetic")
    name = re.sub(r"[^\w.=-]", "-", "_".join(parts))[:LONGEST_NAME]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{name}_{digest[:8]}"


def _name_part(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if isinstance(value, list):
        return name + "-".join(map(str, value))
    if isinstance(value, str):
        return f"{name}-{value}"
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return name + text.replace("+", "")  # 1e30, not 1e+30


def differences(saved: Settings, now: Settings) -> list[str]:
    """One text for each setting that differs: "seed was 1, is 2"."""
    return [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in saved | now
        if saved.get(name) != now.get(name)
    ]


def describe_run(
    name: str,
    settings: Settings,
    options: Options,
    dataset: d4rl_tasks.Dataset,
    device: torch.device,
) -> dict[str, Any]:
    """The content of <run>.json: enough to run it again."""
    run = options.run
    shown = settings.keys() | {"max_timesteps"}
    others = {key: value for key, value in vars(run).items() if key not in shown}
    return {
        "run": name,
        "settings": settings,
        "max_timesteps": run.max_timesteps,
        "options": {key: str(v) if isinstance(v, Path) else v for key, v in others.items()},
        "command": shlex.join(["python", "main_training.py", *options.arguments]),
        "dataset": {
            "source": dataset.source,
            "path": str(dataset.path),
            "synthetic": dataset.synthetic,
            "transitions": len(dataset.rewards),
            "size": dataset.size,
            "sha256": settings["dataset_sha256"],
        },
        "versions": _versions(run.backend),
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _versions(backend: str) -> dict[str, str]:
    libraries = {module.__name__: module.__version__ for module in (torch, np, gymnasium)}
    if backend == "d4rl":
        libraries |= original.versions()
    if backend == "ogbench":
        libraries["ogbench"] = version("ogbench")
    return {"python": platform.python_version(), **libraries, "mujoco": version("mujoco")}


def git_commit() -> str | None:
    """The commit of this program, with "+changes" if files differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True)
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if changes.stdout else "")
