"""The command line as a user types it: the files it makes, what it refuses, what it never loses."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from runs import (
    ROOT,
    exit_code_and_errors,
    make_training,
    networks_in,
    one_file,
    rows_of,
    run_command,
    same_tensors,
)

import d4rl_tasks
import main_training
from d4rl_tasks.synthetic.generate import generate
from experiment.errors import DivergedError
from experiment.evaluation import Outcome
from experiment.models import check_finite
from experiment.options import POLICIES
from main_training import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_a_run_leaves_what_plotting_scripts_expect(hopper):
    assert main(run_command(hopper)) == 0
    table = rows_of()
    assert [row["step"] for row in table] == ["10", "20"]
    assert list(table[0]) == [
        *("step", "wall_time", "score_mean", "score_std", "return_mean", "return_std"),
        *("critic_loss", "actor_loss", "q_data", "value_policy", "value_max", "action_distance"),
        *("effective_sample_size", "data_return_max", "value_bound"),
    ]
    for name, column in {"d4rl": "score_mean", "return": "return_mean"}.items():
        lines = one_file(f"results/AWAC/*_{name}.txt").read_text().split()
        assert lines == [row[column] for row in table]
    log = one_file("results/AWAC/*_critic_loss_log.txt").read_text().split()
    np.testing.assert_allclose(
        [float(x) for x in log], [float(row["critic_loss"]) for row in table]
    )
    scores = d4rl_tasks.normalized_score(
        "hopper-medium-v2", [float(row["return_mean"]) for row in table]
    )
    np.testing.assert_allclose(scores, [float(row["score_mean"]) for row in table])


def test_the_recorded_command_gives_the_same_run(hopper):
    assert (
        main(run_command(hopper, "--seed", "3", "--tau", "0.01", "--info-reg", policy="DMPO")) == 0
    )
    path = one_file("results/DMPO/*.json")
    config, table = json.loads(path.read_text()), rows_of()
    assert config["settings"]["tau"] == 0.01 and config["settings"]["scale"] == 10.0
    assert config["settings"]["seed"] == 3
    data = d4rl_tasks.load_dataset("hopper-medium-v2", hopper)
    assert config["settings"]["dataset_sha256"] == config["dataset"]["sha256"] == data.sha256
    assert config["dataset"]["synthetic"] is True
    assert config["versions"]["torch"] == torch.__version__
    program, script, *arguments = shlex.split(config["command"])
    assert (program, script) == ("python", "main_training.py")
    assert main([*arguments, "--fresh"]) == 0
    again = json.loads(path.read_text())
    assert again["run"] == config["run"] and again["settings"] == config["settings"]
    for before, after in zip(table, rows_of(), strict=True):
        assert before | {"wall_time": ""} == after | {"wall_time": ""}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs(hopper, policy, capsys):
    assert main(run_command(hopper, policy=policy.lower(), steps=10)) == 0
    assert one_file(f"models/{policy}_*_????????.safetensors")
    printed = capsys.readouterr()
    assert "step 10/10" in printed.out and "learning_rate" in printed.out
    assert "batch_size          16" in printed.out and "seed                1" in printed.out
    assert "synthetic dataset" in printed.err
    last = printed.out.splitlines()[-1]
    assert re.fullmatch(r"score .+ ± .+ after 10 steps and \d+ s: results/.+\.csv", last)


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant"])
def test_info_reg(hopper, policy):
    assert main(run_command(hopper, "--info-reg", policy=policy, steps=10)) == 0
    assert "info_loss" in rows_of()[0]
    assert "info_reg" in one_file("results/*/*.json").stem


def test_a_seed_determines_a_run_and_nothing_is_overwritten(hopper):
    for seed in (1, 1, 2):
        main(run_command(hopper, "--seed", str(seed), "--fresh", policy="DMPO"))

    def without_time(path):
        return [line.split(",")[:1] + line.split(",")[2:] for line in path.open()]

    new = one_file("results/DMPO/*seed1*.csv")
    old = one_file("results/DMPO/old/*seed1*.csv.1")
    other = one_file("results/DMPO/*seed2*.csv")
    assert without_time(new) == without_time(old) != without_time(other)
    first = networks_in(one_file("models/*seed1*_????????.safetensors"))
    again = networks_in(one_file("models/old/*seed1*_????????.safetensors.1"))
    assert same_tensors(first, again)


def test_an_option_of_another_policy_is_ignored_with_a_warning(hopper, capsys):
    assert main(run_command(hopper, "--expectile", "0.5", "--no_noise")) == 0
    ignored = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    assert (
        len(ignored) == 2
        and sorted(ignored)[0] == "warning: AWAC has no --expectile: it is ignored"
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--policy", "TD3"], "DMPO, DMPO_ant, AWAC"),
        (["--env", "walker-expert-v2"], "walker2d-expert-v2"),
        (["--source", "nowhere.hdf5"], "nowhere.hdf5"),
        (["--source", "nothing"], "auto"),
        (["--batch_size", "0"], "batch_size"),
        (["--eval_freq", "-5"], "eval_freq"),
        (["--c_loss_freq", "1.5"], "whole"),
        (["--max_timesteps", "many"], "number"),
        (["--max_timestep", "5"], "did you mean --max_timesteps?"),
        (["--discount", "2"], "discount"),
        (["--tau", "0"], "tau"),
        (["--scale", "nan"], "number"),
        (["--scale", "-1"], "scale"),
        (["--hidden", "64", "0"], "hidden"),
        (["--weight_type", "other"], "clamp"),
        (["--score_type", "advantage"], "adv"),
        (["--normalize", "maybe"], "True"),
        (["--info-reg", "maybe"], "True"),
        (["--device_id", "99"], "GPUs"),
        (["--seed", "-1"], "seed"),
        (["--load_model", "nowhere.pt"], "nowhere.pt"),
        # Before the dataset is looked for, which may be a download.
        (["--load_model", "nowhere.pt", "--source", "nowhere.hdf5"], "nowhere.pt"),
        (["--load_model", "default"], ".safetensors does not exist: give"),
        (["--name", "../up"], "letters"),
        (["--unknown", "1"], "--unknown"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(hopper, more, words):
    code, errors = exit_code_and_errors(run_command(hopper, *more))
    lines = [line for line in errors if not line.startswith(("NOTE", "      ", "warning"))]
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert not Path("results").exists()


@pytest.mark.skipif(importlib.util.find_spec("mujoco_py") is not None, reason="it is installed")
def test_the_original_stack_where_it_is_missing(hopper, capsys):
    assert main(run_command(hopper, "--backend", "d4rl")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: the original stack lacks ")
    assert "tests/original_stack/build" in error


def test_results_that_cannot_be_written(hopper, capsys):
    Path("results").write_text("a file of the user's")
    assert main(run_command(hopper)) == 2
    assert "results" in capsys.readouterr().err.splitlines()[-1]
    assert Path("results").read_text() == "a file of the user's"


def test_a_diverging_run_stops_and_keeps_the_last_good_model(hopper, capsys, tmp_path):
    assert main(run_command(hopper, policy="IQL")) == 0
    good = one_file("models/*_????????.safetensors").read_bytes()
    wild = tmp_path / "wild.hdf5"
    wild.write_bytes(hopper.read_bytes())
    with h5py.File(wild, "r+") as file:
        file["rewards"][700:] = 1e30
    assert main(run_command(wild, policy="IQL")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the critic loss became inf at train step 1")
    assert "last good model" in error
    models = Path("models").glob("*_????????.safetensors")
    assert [path.read_bytes() for path in models] == [good]


def test_a_network_that_is_not_finite_is_not_saved(hopper):
    training = make_training(run_command(hopper))
    with torch.no_grad():
        next(training.policy.actor.parameters())[0] = torch.nan
    with pytest.raises(DivergedError, match="actor holds NaN"):
        check_finite(training.policy)


def test_a_network_that_breaks_ends_the_run_without_a_model_or_a_checkpoint(hopper, monkeypatch):
    training = make_training(run_command(hopper, "--no_cuda_graph"))
    policy, update = training.policy, training.policy.update

    def breaking(batch):
        losses = update(batch)
        if policy.total_it == 10:
            with torch.no_grad():
                next(policy.actor.parameters())[0] = torch.nan
        return losses

    monkeypatch.setattr(policy, "update", breaking)
    with pytest.raises(DivergedError, match="actor holds NaN or infinity after train step 10"):
        training.train()
    assert not list(Path("models").glob("*.safetensors*"))


def test_losses_are_looked_at_between_evaluations(hopper, monkeypatch):
    monkeypatch.setattr(main_training, "LOSS_CHECK_FREQ", 3)
    argv = run_command(hopper, "--no_cuda_graph", steps=10, eval_freq=1000, c_loss_freq=1000)
    training = make_training(argv)
    policy, update = training.policy, training.policy.update

    def diverging(batch):
        losses = update(batch)
        return losses | {"critic": losses["critic"] * torch.inf} if policy.total_it == 2 else losses

    monkeypatch.setattr(policy, "update", diverging)
    with pytest.raises(DivergedError, match="critic loss became inf at train step 2"):
        training.train()
    assert policy.total_it == 3


def test_a_run_without_a_whole_window_still_logs_its_loss(hopper):
    assert main(run_command(hopper, c_loss_freq=5000)) == 0
    log = one_file("results/AWAC/*_critic_loss_log.txt").read_text().split()
    losses = [float(row["critic_loss"]) for row in rows_of()]
    assert [float(x) for x in log] == pytest.approx([np.mean(losses)])


def test_results_go_where_the_user_says(hopper):
    argv = run_command(hopper, "--results_dir", "scores", "--name", "trial")
    assert main(argv) == 0
    assert one_file("scores/AWAC/trial_AWAC_*.csv") and one_file(
        "models/trial_*_????????.safetensors"
    )
    assert not Path("results").exists()


def test_the_best_model_is_kept(hopper, monkeypatch):
    scores, actors = iter([1.0, 3.0, 2.0]), []

    def evaluate(policy, *arguments, **options):
        actors.append({name: t.clone() for name, t in policy.actor.state_dict().items()})
        return Outcome(np.zeros(2), np.full(2, next(scores)))

    monkeypatch.setattr(main_training, "evaluate", evaluate)
    assert main(run_command(hopper, "--save_best", steps=30)) == 0
    assert len(actors) == 3 and not same_tensors(actors[0], actors[1])
    assert same_tensors(networks_in(one_file("models/*.best.safetensors")), actors[1])
    assert same_tensors(networks_in(one_file("models/*_????????.safetensors")), actors[2])


def test_the_table_has_what_happened(hopper, monkeypatch):
    losses, outcomes = [], []
    evaluate = main_training.evaluate

    def recorded(*arguments, **options):
        outcomes.append(evaluate(*arguments, **options))
        return outcomes[-1]

    monkeypatch.setattr(main_training, "evaluate", recorded)
    training = make_training(run_command(hopper, "--eval_episodes", "3", "--no_cuda_graph"))
    train = training.policy.train

    def train_and_record(*arguments):
        losses.append(train(*arguments))
        return losses[-1]

    training.policy.train = train_and_record
    training.train()
    log = one_file("results/AWAC/*_critic_loss_log.txt").read_text().split()
    for i, row in enumerate(rows_of()):
        outcome, of_row = outcomes[i], losses[10 * i : 10 * i + 10]
        expected = {"score": outcome.scores, "return": outcome.returns}
        for name, values in expected.items():
            assert float(row[f"{name}_mean"]) == pytest.approx(np.mean(values))
            assert float(row[f"{name}_std"]) == pytest.approx(np.std(values))
        for name in ("critic", "actor"):
            means = np.mean([float(one[name]) for one in of_row if name in one])
            assert float(row[f"{name}_loss"]) == pytest.approx(means)
        assert float(log[i]) == pytest.approx(float(row["critic_loss"]))


@pytest.fixture
def evaluations(monkeypatch):
    """Normaliser, task, number of episodes and seed of each evaluation; none is played."""
    calls = []

    def evaluate(policy, normalizer, env, episodes, seed, **options):
        calls.append((normalizer, env, episodes, seed))
        return Outcome(np.zeros(episodes), np.zeros(episodes))

    monkeypatch.setattr(main_training, "evaluate", evaluate)
    return calls


def test_a_run_is_evaluated_with_its_normaliser_on_its_task_from_its_seed(hopper, evaluations):
    training = make_training(run_command(hopper, "--seed", "5", "--logger", "none"))
    training.train()
    assert evaluations == [(training.normalizer, "hopper-medium-v2", 10, 5)] * 2


@pytest.mark.parametrize(
    ("more", "expected"), [([], [10, 10, 100]), (["--eval_episodes", "3"], [3, 3, 3])]
)
def test_only_the_last_evaluation_on_antmaze_has_100_episodes_unless_the_user_says_otherwise(
    tmp_path, evaluations, more, expected
):
    path = tmp_path / "maze.hdf5"
    generate("antmaze-umaze-v0", path, transitions=50)
    argv = run_command(path, "--env", "antmaze-umaze-v0", "--logger", "none", *more, steps=30)
    assert main(argv) == 0
    assert [episodes for _, _, episodes, _ in evaluations] == expected


def test_as_a_user_types_it(hopper):
    # Their MUJOCO_GL may name a renderer that this machine lacks: training draws nothing.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "nonsense"}
    done = subprocess.run(
        [sys.executable, ROOT / "main_training.py", *run_command(hopper, policy="dmpo", steps=10)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "step 10/10" in done.stdout and "DMPO_hopper-medium-v2" in done.stdout
    assert "Traceback" not in done.stderr
    wrong = subprocess.run(
        [sys.executable, ROOT / "main_training.py", "--policy", "SAC"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_last_antmaze_evaluation_has_100_episodes(tmp_path, monkeypatch):
    path = tmp_path / "maze.hdf5"
    generate("antmaze-umaze-v0", path, transitions=1000)
    counts = []
    evaluate = main_training.evaluate

    def counting(*arguments, **options):
        outcome = evaluate(*arguments, **options)
        counts.append(len(outcome.returns))
        return outcome

    monkeypatch.setattr(main_training, "evaluate", counting)
    arguments = ["--policy", "AWAC", "--env", "antmaze-umaze-v0", "--source", str(path)]
    assert main([*arguments, "--max_timesteps", "4", "--eval_freq", "2"]) == 0
    assert counts == [10, 100]
