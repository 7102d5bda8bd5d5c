"""Settings: whatever changes the computation starts a run of its own, and nothing else does."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from runs import make_training, one_file, rows_of, run_command

import d4rl_tasks
from experiment import settings
from experiment.options import POLICIES, hyperparameters_of, parse
from main_training import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def name_of(hopper, *more, **options):
    return make_training(run_command(hopper, *more, **options)).results.run


def test_names_are_readable_and_end_with_a_hash(hopper):
    name = name_of(hopper, "--weight_type", "raw", "--scale", "1.5")
    assert name.startswith(
        "AWAC_hopper-medium-v2_seed1_hidden8-8_scale1.5_weight_type-raw_synthetic_"
    )
    assert len(name.rsplit("_", 1)[1]) == 8


@pytest.mark.parametrize("number", ["1e30", "0.9999999", "1e-05", "20"])
def test_a_number_in_a_name_is_the_one_that_was_given(hopper, number):
    assert f"_scale{number}_" in name_of(hopper, "--scale", number)


@pytest.mark.parametrize(
    "more",
    [
        *(["--seed", "2"], ["--batch_size", "17"], ["--no-normalize"], ["--learning_rate", "1e-3"]),
        *(["--scale", "1"], ["--hidden", "8"], ["--score_type", "q"], ["--value_samples", "3"]),
    ],
)
def test_a_setting_changes_the_name(hopper, more):
    assert name_of(hopper, *more) != name_of(hopper)


@pytest.mark.parametrize(
    "more",
    [
        *(["--eval_freq", "3"], ["--c_loss_freq", "7"], ["--checkpoint_freq", "2"], ["--fresh"]),
        *(["--logger", "none"], ["--save_model", "False"], ["--save_best"], ["--group", "g"]),
        *(["--no_cuda_graph"], ["--compile"], ["--eval_episodes", "2"], ["--max_timesteps", "33"]),
        ["--results_dir", "elsewhere"],
    ],
)
def test_an_option_that_changes_no_result_does_not_change_the_name(hopper, more):
    assert name_of(hopper, *more) == name_of(hopper)


def test_other_data_changes_the_name(hopper, tmp_path):
    copy = tmp_path / "copy.hdf5"
    copy.write_bytes(hopper.read_bytes())
    assert name_of(copy) == name_of(hopper)
    copy.write_bytes(hopper.read_bytes() + bytes(1))
    assert name_of(copy) != name_of(hopper)


@pytest.fixture(scope="module")
def without_a_file(hopper):
    """A dataset as Minari's, which has no single file."""
    return dataclasses.replace(d4rl_tasks.load_dataset("hopper-medium-v2", hopper), sha256=None)


def test_equal_data_without_a_file_have_one_hash(without_a_file):
    copies = {name: without_a_file[name].copy() for name in without_a_file.keys()}  # noqa: SIM118
    same = dataclasses.replace(without_a_file, path=Path("elsewhere"), **copies)
    assert settings.dataset_sha256(same) == settings.dataset_sha256(without_a_file)


@pytest.mark.parametrize(
    "name", ["observations", "actions", "next_observations", "rewards", "terminals"]
)
def test_each_array_of_data_without_a_file_changes_the_hash(without_a_file, name):
    values = without_a_file[name].copy()
    values[0] += 1
    other = dataclasses.replace(without_a_file, **{name: values})
    assert settings.dataset_sha256(other) != settings.dataset_sha256(without_a_file)


def test_the_backend_is_a_setting():
    ours, original = (
        settings.option_settings(parse(["--env", "hopper-medium-v2", "--backend", backend]))
        for backend in ("d4rl_tasks", "d4rl")
    )
    assert settings.differences(ours, original) == ["backend was 'd4rl_tasks', is 'd4rl'"]


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in an empty folder that stands for the program's."""
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "settings.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def run(*words):
        line = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody", *words]
        return subprocess.check_output(line, cwd=tmp_path, text=True).strip()

    return run


def test_the_commit_says_whether_files_differ_from_it(git):
    assert settings.git_commit() is None
    git("init", "--quiet")
    Path("file").write_text("as committed")
    git("add", "file")
    git("commit", "--quiet", "--message", "one file")
    commit = git("rev-parse", "HEAD")
    Path("untracked").touch()
    assert len(commit) == 40 and settings.git_commit() == commit
    Path("file").write_text("changed since")
    assert settings.git_commit() == f"{commit}+changes"


def test_the_length_of_a_run_is_a_setting_only_where_learning_depends_on_it(hopper):
    assert name_of(hopper, steps=20, policy="IQL") != name_of(hopper, steps=30, policy="IQL")
    assert name_of(hopper, steps=20, policy="DMPO") == name_of(hopper, steps=30, policy="DMPO")


def test_every_hyperparameter_is_a_setting(hopper):
    for policy in POLICIES:
        found = make_training(run_command(hopper, policy=policy)).state.settings
        expected = json.loads(json.dumps(dataclasses.asdict(hyperparameters_of(policy))))
        assert found.keys() >= expected.keys()
        assert {k: found[k] for k in expected} == expected | {"hidden": [8, 8]}


def test_runs_that_log_differently_are_one_run(hopper, capsys):
    assert main(run_command(hopper, steps=20)) == 0
    more = ["--c_loss_freq", "4", "--eval_freq", "6", "--max_timesteps", "24"]
    assert main(run_command(hopper, *more)) == 0
    assert "resumed at step 20" in capsys.readouterr().out
    assert [row["step"] for row in rows_of()] == ["10", "20", "24"]
    assert len(list(Path("results/AWAC").glob("*.csv"))) == 1


def test_a_finished_run_continues_with_more_steps_as_if_it_had_not_ended(hopper):
    assert main(run_command(hopper, steps=40, policy="DMPO")) == 0
    expected = rows_of()
    assert main(run_command(hopper, "--fresh", steps=20, policy="DMPO")) == 0
    assert main(run_command(hopper, steps=40, policy="DMPO")) == 0
    for row, again in zip(expected, rows_of(), strict=True):
        assert row | {"wall_time": ""} == again | {"wall_time": ""}
    config = json.loads(one_file("results/DMPO/*.json").read_text())
    assert config["max_timesteps"] == 40
    (earlier,) = config["earlier"]
    assert earlier["until_step"] == 20 and earlier["max_timesteps"] == 20
