"""`main_training.py --backend d4rl`: every policy, on a task of ours and on one beyond them."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from runs import one_file, rows_of

from d4rl_tasks import original
from experiment.options import POLICIES
from main_training import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def train(policy, env, source, *more):
    command = ["--policy", policy, "--env", env, "--source", str(source), "--backend", "d4rl"]
    return main([*command, "--batch_size", "64", "--max_timesteps", "300", *more])


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_trains_for_300_steps(policy, hopper):
    assert train(policy, "hopper-medium-v2", hopper) == 0
    row = rows_of()[-1]
    assert row["step"] == "300" and np.isfinite(float(row["critic_loss"]))
    score = original.normalized_score("hopper-medium-v2", float(row["return_mean"]))
    assert float(row["score_mean"]) == pytest.approx(float(score))
    config = json.loads(one_file("results/*/*.json").read_text())
    assert config["settings"]["backend"] == "d4rl" and "synthetic" in config["run"]
    assert config["versions"]["gym"] == "0.23.1" and config["versions"]["d4rl"] == "1.1"


def test_both_backends_train_alike(hopper):
    """Same data, same seed: the losses are the same, though evaluations start elsewhere."""
    assert train("AWAC", "hopper-medium-v2", hopper) == 0
    theirs = rows_of()[-1]
    more = ["--backend", "d4rl_tasks", "--name", "ours"]
    assert train("AWAC", "hopper-medium-v2", hopper, *more) == 0
    ours = rows_of("results/*/ours_*.csv")[-1]
    assert ours["critic_loss"] == theirs["critic_loss"]
    assert ours["actor_loss"] == theirs["actor_loss"]


def test_a_task_beyond_ours(tmp_path):
    environment = original.make_vec("ant-random-expert-v0", 1)
    observations, _ = environment.reset(seed=[0])
    rng = np.random.default_rng(0)
    rows = {"observations": [], "actions": [], "rewards": []}
    for _ in range(200):
        action = rng.uniform(-1, 1, (1, 8))
        rows["observations"].append(observations[0])
        rows["actions"].append(action[0])
        observations, rewards, _, _, _ = environment.step(action)
        rows["rewards"].append(rewards[0])
    with h5py.File(tmp_path / "ant.hdf5", "w") as file:
        for key, values in rows.items():
            file[key] = np.array(values, dtype=np.float32)
        file["terminals"] = file["timeouts"] = np.zeros(200, bool)
    assert train("IQL", "ant-random-expert-v0", tmp_path / "ant.hdf5") == 0
    assert np.isfinite(float(rows_of()[-1]["score_mean"]))


def test_tasks_that_are_missing_are_one_line(hopper, capsys):
    for env, words in {"pen-human-v1": "mjrl", "hoper-medium-v2": "unknown task"}.items():
        assert train("AWAC", env, hopper) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and words in error
    assert not Path("results").exists()
