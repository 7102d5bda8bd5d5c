"""Models: what is saved is what is loaded, and bad files are refused in one line."""

import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from runs import (
    ROOT,
    exit_code_and_errors,
    make_training,
    one_file,
    rows_of,
    run_command,
    same_tensors,
)

import d4rl_tasks
import DMPO
from d4rl_tasks.synthetic.generate import generate
from experiment.errors import RunError
from experiment.files import read_content, write_content
from experiment.models import load_policy, read_model_info
from experiment.options import POLICIES
from main_training import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
MODEL = "models/*_????????.safetensors"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A small dataset of each task; the second of two rewards of 1 ends an episode."""
    folder = tmp_path_factory.mktemp("data")
    paths = {env: folder / f"{env}.hdf5" for env in ("hopper-medium-v2", "antmaze-umaze-v0")}
    for env, path in paths.items():
        generate(env, path, transitions=100)
        with h5py.File(path, "r+") as file:
            file["rewards"][[20, 60]] = 1
            file["terminals"][60] = True
    return paths


@pytest.mark.parametrize(
    ("env", "policy", "factor", "offset"),
    [
        ("hopper-medium-v2", "DMPO", 1, 0),
        ("hopper-medium-v2", "DMPO_ant", 1, 0),
        ("hopper-medium-v2", "AWAC", 1, 0),
        ("antmaze-umaze-v0", "DMPO", 1, -1),
        ("antmaze-umaze-v0", "DMPO_ant", 100, 0),
        ("antmaze-umaze-v0", "AWAC", 1, -1),
    ],
)
def test_a_policy_trains_on_its_datasets_normalised_states_and_its_own_rewards(
    datasets, env, policy, factor, offset
):
    argv = run_command(datasets[env], "--env", env, "--seed", "3", policy=policy)
    training = make_training(argv)
    data = d4rl_tasks.load_dataset(env, datasets[env])
    observations = data.observations.astype(np.float64)
    mean, std = observations.mean(0), observations.std(0) + 1e-3
    states, next_states = (observations - mean) / std, (data.next_observations - mean) / std
    rewards, not_done = factor * data.rewards + offset, 1 - data.terminals
    assert rewards.min() < rewards.max() and not_done.min() < not_done.max()
    rows = np.column_stack([states, data.actions, next_states, rewards, not_done])
    np.testing.assert_allclose(training.buffer.rows.cpu(), rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(training.normalizer(observations), states, rtol=1e-4, atol=1e-4)
    spec = training.policy.spec
    assert spec.is_antmaze == (env == "antmaze-umaze-v0")
    assert spec.reward_range == (rewards.min(), rewards.max())
    assert training.buffer.generator.initial_seed() == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_loaded_policy_acts_as_the_trained_one(hopper, policy):
    training = make_training(run_command(hopper, policy=policy, steps=10))
    training.train()
    loaded, normalizer = load_policy(one_file(MODEL), training.policy.device)
    observations = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    states = training.normalizer(observations)
    assert np.array_equal(states, normalizer(observations))
    assert np.array_equal(training.policy.select_action(states), loaded.select_action(states))
    assert loaded.total_it == 10 and loaded.hp == training.policy.hp
    assert read_model_info(one_file(MODEL))["settings"] == training.state.settings


def test_an_error_without_a_message_is_still_a_reason(hopper, monkeypatch):
    """A policy that a person has edited may raise anything."""
    main(run_command(hopper, policy="DMPO"))

    def broken(*_):
        raise ValueError

    monkeypatch.setattr(DMPO.DMPO, "__init__", broken)
    with pytest.raises(RunError, match=r"version of DMPO \(ValueError\)"):
        load_policy(one_file(MODEL))


class _Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def bad_models(good: Path):
    """Name and bytes of files that must be refused."""
    content = read_content(good)
    yield "empty", b""
    yield "truncated", good.read_bytes()[:1000]
    yield "text", b"not a model"
    yield "pickle", pickle.dumps(_Harmful())
    changed = Path("changed.safetensors")
    state = content["policy"]
    for name, change in {
        "policy": {"config": content["config"] | {"settings": {"policy": "TD9"}}},
        "list of a policy": {"config": content["config"] | {"settings": {"policy": ["AWAC"]}}},
        "no networks": {"policy": {}},
        "dimensions": {"mean": torch.zeros(17)},
        "half precision": {"std": torch.ones(11, dtype=torch.float16)},
        "not a number": {"mean": torch.full((11,), torch.nan)},
        "steps": {"policy": state | {"total_it": 1.5}},
        "optimiser": {"policy": state | {"actor_optimizer": {"state": {}}}},
        "sizes": {"spec": {"state_dim": "many"}},
        "hyperparameters": {"hyperparameters": {"hidden": ["a"]}},
        "no config": {"config": None},
    }.items():
        write_content(changed, content | change)
        yield name, changed.read_bytes()


def test_bad_model_files_are_refused_and_nothing_in_them_is_executed(hopper):
    main(run_command(hopper))
    good = one_file(MODEL)
    bad = Path("bad.safetensors")
    for name, data in bad_models(good):
        bad.write_bytes(data)
        with pytest.raises(RunError, match=r"^bad\.safetensors ") as caught:
            load_policy(bad)
        assert "\n" not in str(caught.value), name
    assert not Path("executed").exists()


def test_a_model_of_another_policy_or_size_is_refused(hopper):
    main(run_command(hopper))
    good = str(one_file(MODEL))
    code, errors = exit_code_and_errors(run_command(hopper, "--load_model", good, policy="IQL"))
    assert code == 2 and "model of AWAC" in errors[-1]
    argv = run_command(hopper, "--load_model", good, "--hidden", "9", "9")
    code, errors = exit_code_and_errors(argv)
    assert code == 2 and "does not fit" in errors[-1] and "(8, 11)" in errors[-1]


def test_a_model_of_an_older_version_is_one_line():
    Path("old.pt").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"old\.pt is a model of an older version: train it again"):
        load_policy("old.pt")


def test_loaded_weights_start_a_run_of_its_own_at_step_0(hopper):
    main(run_command(hopper, policy="IQL", steps=20))
    model = one_file(MODEL)
    trained = read_content(model)["policy"]
    argv = run_command(hopper, "--load_model", str(model), policy="IQL", steps=10)
    training = make_training(argv)
    assert training.policy.total_it == 0
    assert same_tensors(training.policy.actor.state_dict(), trained["actor"])
    moments = training.policy.actor_optimizer.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moments.cpu(), trained["actor_optimizer"]["state"][0]["exp_avg"])
    # The learning rate had decayed to 0; a new run begins with a new schedule.
    assert training.policy.actor_optimizer.param_groups[0]["lr"] == training.policy.hp.learning_rate
    training.train()
    assert [row["step"] for row in rows_of(f"results/IQL/{training.results.run}.csv")] == ["10"]
    assert len(list(Path("results/IQL").glob("*.csv"))) == 2


def test_default_is_the_model_of_the_same_run(hopper):
    main(run_command(hopper))
    model = one_file(MODEL)
    training = make_training(run_command(hopper, "--load_model", "default"))
    assert same_tensors(training.policy.actor.state_dict(), read_content(model)["policy"]["actor"])
    assert training.results.run != model.stem


def test_a_model_of_other_data_is_named(hopper, tmp_path, capsys):
    main(run_command(hopper))
    other = tmp_path / "other.hdf5"
    other.write_bytes(hopper.read_bytes() + bytes(1))
    model = str(one_file(MODEL))
    capsys.readouterr()
    make_training(run_command(other, "--load_model", model))
    assert f"warning: {model} was trained on another dataset" in capsys.readouterr().err
    make_training(run_command(hopper, "--load_model", model))
    assert "warning" not in capsys.readouterr().err


def test_a_model_of_other_states_is_named(hopper, capsys):
    main(run_command(hopper, "--no-normalize"))
    model = str(one_file(MODEL))
    for more, is_named in ((["--no-normalize"], False), ([], True)):
        capsys.readouterr()
        make_training(run_command(hopper, "--load_model", model, *more))
        warning = f"warning: {model} was trained with a different --normalize\n"
        assert (warning in capsys.readouterr().err) == is_named


def test_the_analysis_in_the_readme_runs(hopper):
    main(run_command(hopper, policy="DMPO"))
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n((?:(?!```).)*load_policy.*?)```", readme, re.DOTALL)
    block = block.replace("models/<run>.safetensors", str(one_file(MODEL)))
    found = {"observations": np.random.default_rng(0).normal(size=(9, 11))}
    exec(compile(block, "README.md", "exec"), found)
    assert found["actions"].shape == found["forced"].shape == (9, 3)
    assert found["components"].shape == (9,) and found["values"].shape == (9, 8)
