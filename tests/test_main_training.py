"""The command line as a user types it: the files it makes, what it refuses, what it never loses."""

import csv
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import d4rl_tasks
import main_training
from d4rl_tasks.synthetic.generate import generate
from main_training import POLICIES, main

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def command(hopper, *more, policy="AWAC", steps=20):
    return [
        *("--policy", policy, "--env", "hopper-medium-v2", "--source", str(hopper)),
        *("--max_timesteps", str(steps), "--eval_freq", "10", "--c_loss_freq", "10"),
        *("--batch_size", "16", *more),
    ]


def one_file(pattern):
    (path,) = Path().glob(pattern)
    return path


def rows():
    with one_file("results/*/*.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_plotting_scripts_expect(hopper):
    assert main(command(hopper)) == 0
    table = rows()
    assert [row["step"] for row in table] == ["10", "20"]
    assert list(table[0]) == [
        *("step", "wall_time", "score_mean", "score_std", "return_mean", "return_std"),
        *("critic_loss", "actor_loss"),
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


def test_the_json_says_how_to_run_it_again(hopper):
    main(command(hopper, "--seed", "3", "--tau", "0.01"))
    config = json.loads(one_file("results/AWAC/*.json").read_text())
    assert config["hyperparameters"]["tau"] == 0.01
    assert config["hyperparameters"]["scale"] == 10.0
    assert config["arguments"]["seed"] == 3
    data = d4rl_tasks.load_dataset("hopper-medium-v2", hopper)
    assert config["dataset"]["sha256"] == data.sha256
    assert config["dataset"]["synthetic"] is True
    assert config["versions"]["torch"] == torch.__version__
    assert config["device"] and config["command"]


def test_run_names_say_everything_that_distinguishes_them(hopper):
    main(command(hopper, "--no-normalize", "--hidden", "8", "16", "--weight_type", "raw"))
    name = one_file("results/AWAC/*.json").stem
    for part in (
        *("AWAC", "hopper-medium-v2", "seed1", "scale10", "no-normalize", "hidden8-16"),
        *("weight_type-raw", "batch_size16", "max_timesteps20", "synthetic"),
    ):
        assert part in name.split("_") or part in name


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs(hopper, policy, capsys):
    assert main(command(hopper, policy=policy.lower(), steps=10)) == 0
    assert one_file(f"models/{policy}_*.pt")
    printed = capsys.readouterr()
    assert "step 10/10" in printed.out and "learning_rate" in printed.out
    assert "synthetic dataset" in printed.err


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant"])
def test_info_reg(hopper, policy):
    assert main(command(hopper, "--info-reg", policy=policy, steps=10)) == 0
    assert "info_loss" in rows()[0]
    assert "info_reg" in one_file("results/*/*.json").stem


def test_a_seed_determines_a_run_and_nothing_is_overwritten(hopper):
    for seed in (1, 1, 2):
        main(command(hopper, "--seed", str(seed), "--fresh", policy="DMPO"))

    def without_time(path):
        return [line.split(",")[:1] + line.split(",")[2:] for line in path.open()]

    new = one_file("results/DMPO/*seed1*.csv")
    old = one_file("results/DMPO/old/*seed1*.csv.1")
    other = one_file("results/DMPO/*seed2*.csv")
    assert without_time(new) == without_time(old) != without_time(other)
    first = torch.load(one_file("models/*seed1*.pt"), weights_only=True)["state"]["actor"]
    again = torch.load(one_file("models/old/*seed1*.pt.1"), weights_only=True)["state"]["actor"]
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_evaluation_does_not_depend_on_how_many_run_at_once(hopper):
    module = main_training.policy_module("AWAC")
    torch.manual_seed(0)
    policy = module.AWAC(11, 3, 1.0, module.Hyperparameters())
    scaling = main_training.Scaling(np.zeros(11, np.float32), np.ones(11, np.float32))
    together = main_training.evaluate(policy, "hopper-medium-v2", 4, 0, scaling)
    alone = [
        main_training.evaluate(policy, "hopper-medium-v2", 1, episode, scaling)[0]
        for episode in range(4)
    ]
    # The same episodes, but a matrix product of another size may round its last digit otherwise.
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert len(set(together)) == 4


def test_rewards_of_antmaze():
    maze, hopper = d4rl_tasks.get_task("antmaze-umaze-v0"), d4rl_tasks.get_task("hopper-medium-v2")
    rewards = np.array([0, 1], dtype=np.float32)
    assert main_training.training_rewards("AWAC", maze, rewards).tolist() == [-1, 0]
    assert main_training.training_rewards("DMPO_ant", maze, rewards).tolist() == [0, 100]
    assert main_training.training_rewards("DMPO_ant", hopper, rewards).tolist() == [0, 1]
    assert main_training.value_range(maze, rewards, 0.99) == (0, 100)
    low, high = main_training.value_range(hopper, np.array([-1.0, 3.0]), 0.99)
    assert (low, high) == pytest.approx((-100, 300))


def test_boolean_options_in_every_spelling(hopper):
    parse = main_training.make_parser().parse_args
    assert parse([]).normalize and parse(["--normalize"]).normalize
    for off in (["--normalize", "False"], ["--no-normalize"]):
        assert parse(off).normalize is False
    assert parse(["--save_model", "false"]).save_model is False
    assert parse(["--max_timesteps", "1e3"]).max_timesteps == 1000
    main(command(hopper, "--save_model", "False"))
    assert not list(Path("models").glob("*.pt"))


def test_the_documented_defaults():
    arguments = main_training.make_parser().parse_args([])
    assert (arguments.policy, arguments.env) == ("DMPO_ant", "antmaze-large-diverse-v0")
    assert (arguments.seed, arguments.eval_freq, arguments.c_loss_freq) == (1, 5000, 5000)
    assert (arguments.max_timesteps, arguments.batch_size) == (1_000_000, 256)
    for policy in POLICIES:
        arguments.policy = policy
        hp = main_training.choose_hyperparameters(arguments)
        assert (hp.discount, hp.tau, hp.scale, hp.weight_type) == (0.99, 0.005, 10, "")
        assert hp.hidden == ((256, 256, 256) if policy == "DMPO_ant" else (256, 256))


def test_an_option_of_another_policy_is_ignored_with_a_warning(hopper, capsys):
    assert main(command(hopper, "--expectile", "0.5", "--no_noise")) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2 and any("expectile" in line for line in warnings)


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
        (["--discount", "2"], "discount"),
        (["--tau", "0"], "tau"),
        (["--scale", "nan"], "finite"),
        (["--scale", "-1"], "scale"),
        (["--hidden", "64"], "layers"),
        (["--hidden", "64", "0"], "hidden"),
        (["--weight_type", "other"], "clamp"),
        (["--normalize", "maybe"], "True"),
        (["--device_id", "99"], "GPUs"),
        (["--seed", "-1"], "seed"),
        (["--load_model", "nowhere.pt"], "nowhere.pt"),
        (["--load_model", "default"], "no model"),
        (["--unknown", "1"], "--unknown"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(hopper, capsys, more, words):
    try:
        code = main(command(hopper, *more))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err.splitlines()
    lines = [line for line in error if not line.startswith(("NOTE", "warning"))]
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert not Path("results").exists()


@pytest.mark.skipif(importlib.util.find_spec("mujoco_py") is not None, reason="it is installed")
def test_the_original_stack_where_it_is_missing(hopper, capsys):
    assert main(command(hopper, "--backend", "d4rl")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: the original stack lacks gym")
    assert "tests/original_stack/build" in error


def test_results_that_cannot_be_written(hopper, capsys):
    Path("results").write_text("a file of the user's")
    assert main(command(hopper)) == 2
    assert "results" in capsys.readouterr().err.splitlines()[-1]
    assert Path("results").read_text() == "a file of the user's"


class _Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def bad_models(good: Path):
    content = torch.load(good, weights_only=True)
    yield "empty", b""
    yield "truncated", good.read_bytes()[:1000]
    yield "text", b"not a model"
    yield "pickle", pickle.dumps(_Harmful())
    for name, change in {
        "format": {"format": "other"},
        "policy": {"policy": "IQL"},
        "state": {"state": {}},
        "dimensions": {"mean": torch.zeros(17)},
    }.items():
        torch.save(content | change, "changed.pt")
        yield name, Path("changed.pt").read_bytes()
    torch.save([1, 2], "changed.pt")
    yield "list", Path("changed.pt").read_bytes()
    torch.save(_Harmful(), "changed.pt")
    yield "harmful", Path("changed.pt").read_bytes()


def test_bad_model_files_are_refused_and_nothing_in_them_is_executed(hopper, capsys):
    main(command(hopper))
    good = one_file("models/*.pt")
    for name, data in bad_models(good):
        Path("bad.pt").write_bytes(data)
        capsys.readouterr()
        assert main(command(hopper, "--fresh", "--load_model", "bad.pt")) == 2, name
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: bad.pt"), name
    assert not Path("executed").exists()
    assert main(command(hopper, "--load_model", str(good), policy="IQL")) == 2
    assert "model of AWAC" in capsys.readouterr().err
    assert main(command(hopper, "--hidden", "8", "8", "--load_model", str(good))) == 2
    assert "does not fit" in capsys.readouterr().err


def test_a_loaded_model_goes_on_where_it_stopped(hopper):
    main(command(hopper, policy="IQL"))
    model = one_file("models/*.pt")
    more = ["--load_model", str(model), "--max_timesteps", "30"]
    assert main(command(hopper, *more, policy="IQL")) == 0
    with one_file("results/IQL/*timesteps30*.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["30"]
    # A model at its last step is evaluated, not trained; its score is that of its own run.
    last = rows_of("results/IQL/*timesteps20*.csv")[-1]
    more = ["--load_model", "default", "--fresh"]
    assert main(command(hopper, *more, policy="IQL")) == 0
    again = rows_of("results/IQL/*timesteps20*.csv")
    assert [row["step"] for row in again] == ["20"]
    assert again[0]["score_mean"] == last["score_mean"]


def rows_of(pattern):
    with one_file(pattern).open() as file:
        return list(csv.DictReader(file))


def test_a_diverging_run_stops_and_keeps_the_last_good_model(hopper, capsys, tmp_path):
    assert main(command(hopper, policy="IQL")) == 0
    good = one_file("models/*.pt").read_bytes()
    wild = tmp_path / "wild.hdf5"
    wild.write_bytes(hopper.read_bytes())
    with h5py.File(wild, "r+") as file:
        file["rewards"][700:] = 1e30
    arguments = command(wild, policy="IQL")
    assert main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the critic loss became inf at train step 1")
    assert "last good model" in error
    assert [path.read_bytes() for path in Path("models").glob("*.pt")] == [good]


def test_a_network_that_is_not_finite_is_not_saved(hopper):
    main(command(hopper))
    arguments = main_training.make_parser().parse_args(command(hopper))
    training = main_training.Training(arguments, main_training.StopSignals())
    with torch.no_grad():
        next(training.policy.actor.parameters())[0] = torch.nan
    model = one_file("models/*.pt")
    good = model.read_bytes()
    with pytest.raises(main_training.DivergedError, match="actor"):
        main_training.save_model(model, training.policy, arguments, training.scaling)
    assert model.read_bytes() == good


def test_help_is_grouped_and_says_defaults():
    text = main_training.make_parser().format_help()
    assert all(f"{group}:" in text for group in ("run", "results", "training"))
    assert "5e-7" in text and "256 256 256" in text


def test_as_a_user_types_it(hopper):
    # Whose MUJOCO_GL may name what this machine lacks: training draws nothing.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "nonsense"}
    done = subprocess.run(
        [sys.executable, ROOT / "main_training.py", *command(hopper, policy="dmpo", steps=10)],
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

    def counting(*arguments):
        returns = evaluate(*arguments)
        counts.append(len(returns))
        return returns

    monkeypatch.setattr(main_training, "evaluate", counting)
    arguments = ["--policy", "AWAC", "--env", "antmaze-umaze-v0", "--source", str(path)]
    assert main([*arguments, "--max_timesteps", "4", "--eval_freq", "2"]) == 0
    assert counts == [10, 100]


def test_evaluation_leaves_the_cores_to_the_environments():
    seen = []

    class Falls:
        def select_action(self, states):
            seen.append(torch.get_num_threads())
            return np.ones((len(states), 3), dtype=np.float32)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scaling = main_training.Scaling(np.zeros(11, np.float32), np.ones(11, np.float32))
        returns = main_training.evaluate(Falls(), "hopper-medium-v2", 2, 1, scaling)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert returns.shape == (2,)
    assert set(seen) == {1}
