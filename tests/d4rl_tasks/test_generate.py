"""Synthetic datasets: what is in the files, and that nothing else is left behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from programs import exit_code

import d4rl_tasks
from d4rl_tasks.mazes import ANT_LAYOUTS, AntMazeGrid
from d4rl_tasks.synthetic import train_behaviour
from d4rl_tasks.synthetic.behaviours import MANIFEST, load_behaviour
from d4rl_tasks.synthetic.generate import (
    Lane,
    behaviours_of,
    default_transitions,
    generate,
    main,
    plan_lanes,
)
from d4rl_tasks.synthetic.navigation import goal_cells, next_cells
from d4rl_tasks.tasks import get_task
from d4rl_tasks.verify import main as verify
from d4rl_tasks.verify import verify_file

ROOT = Path(__file__).parents[2]
V2_KEYS = {
    *("observations", "actions", "next_observations", "rewards", "terminals", "timeouts"),
    *("infos/qpos", "infos/qvel", "infos/action_log_probs"),
    *("metadata/algorithm", "metadata/iteration"),
    *("metadata/policy/nonlinearity", "metadata/policy/output_distribution"),
    *(
        f"metadata/policy/{layer}/{part}"
        for layer in ("fc0", "fc1", "last_fc", "last_fc_log_std")
        for part in ("weight", "bias")
    ),
}


def arrays_of(path):
    arrays = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(collect)
        return arrays, dict(file.attrs)


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "hopper.hdf5"
    return path, generate("hopper-expert-v2", path, transitions=3000, seed=1)


def test_a_file_has_d4rls_keys_shapes_and_types(hopper):
    arrays, attributes = arrays_of(hopper[0])
    assert set(arrays) == V2_KEYS
    for key, shape in {
        "observations": (3000, 11),
        "actions": (3000, 3),
        "rewards": (3000,),
    }.items():
        assert arrays[key].shape == shape and arrays[key].dtype == np.float32
    assert arrays["terminals"].dtype == arrays["timeouts"].dtype == bool
    assert arrays["infos/qpos"].dtype == np.float64
    assert attributes["synthetic"] and attributes["task"] == "hopper-expert-v2"
    assert attributes["transitions"] == 3000 and attributes["seed"] == 1


def test_rows_follow_each_other_within_episodes(hopper):
    arrays, _ = arrays_of(hopper[0])
    ends = arrays["terminals"] | arrays["timeouts"]
    assert not (arrays["terminals"] & arrays["timeouts"]).any()
    assert ends[-1]
    inside = np.flatnonzero(~ends[:-1])
    np.testing.assert_array_equal(
        arrays["next_observations"][inside], arrays["observations"][inside + 1]
    )


def test_statistics_are_those_of_the_whole_episodes(hopper):
    arrays, attributes = arrays_of(hopper[0])
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    episodes = np.split(arrays["rewards"].astype(float), ends[:-1] + 1)
    whole = [
        e
        for e, end in zip(episodes, ends, strict=True)
        if len(e) == 1000 or arrays["terminals"][end]
    ]
    assert attributes["episodes"] == len(whole)
    mean = np.mean([episode.sum() for episode in whole])
    assert attributes["mean_return"] == pytest.approx(mean)
    score = d4rl_tasks.normalized_score("hopper-expert-v2", mean)
    assert attributes["mean_normalized_score"] == pytest.approx(float(score))


def test_its_physics_is_d4rls_to_the_twelfth_digit(hopper):
    errors = verify_file(hopper[0], "hopper-expert-v2", samples=300)
    assert np.median(errors["D4RL's physics"]) < 1e-12
    assert np.median(errors["uncorrected"]) > 1e-4


def test_verify_prints_both_distributions(hopper, capsys):
    assert verify([str(hopper[0]), "--env", "hopper-expert-v2", "--samples", "50"]) == 0
    printed = capsys.readouterr().out
    assert "D4RL's physics" in printed and "uncorrected" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.hdf5", "--env", "hopper-expert-v2"],
        ["HOPPER", "--env", "walker2d-expert-v2"],
        ["HOPPER", "--env", "hoper-expert-v2"],
        ["HOPPER", "--env", "hopper-expert-v2", "--samples", "0"],
    ],
)
def test_verify_refuses_bad_input_in_one_line(hopper, capsys, arguments):
    arguments = [str(hopper[0]) if part == "HOPPER" else part for part in arguments]
    assert exit_code(verify, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_file_depends_on_task_size_and_seed_alone(tmp_path):
    paths = [tmp_path / f"{i}.hdf5" for i in range(3)]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        generate("walker2d-medium-v2", path, transitions=500, seed=seed)
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_random_acts_uniformly(tmp_path):
    generate("halfcheetah-random-v2", tmp_path / "r.hdf5", transitions=5000)
    actions = arrays_of(tmp_path / "r.hdf5")[0]["actions"]
    np.testing.assert_allclose(np.quantile(actions, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.03)


def test_mixtures_share_the_transitions_in_order():
    def shares(name, transitions):
        lanes = plan_lanes(behaviours_of(get_task(name)), transitions)
        counts = {}
        for lane in lanes:
            counts[lane.behaviour.name] = counts.get(lane.behaviour.name, 0) + lane.length
        return counts

    assert shares("walker2d-medium-expert-v2", 100_001) == {
        "walker2d/0150000": 50_001,
        "walker2d/0450000": 50_000,
    }
    replay = shares("walker2d-medium-replay-v2", 30_000)
    assert replay == {f"walker2d/0{k}0000": 10_000 for k in ("05", "10", "15")}
    manifest = json.loads(MANIFEST.read_text())
    assert len(shares("hopper-full-replay-v2", 50_000)) == len(manifest["hopper"])


def test_lanes_are_long_enough_for_whole_episodes():
    lanes = plan_lanes([None], 300_000)
    assert len(lanes) == 32
    assert sum(lane.length for lane in lanes) == 300_000
    assert plan_lanes([None], 7) == [Lane(None, 7)]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("walker2d-expert-v2", 1_000_000),
        ("hopper-random-v0", 1_000_000),
        ("halfcheetah-medium-expert-v2", 2_000_000),
        ("hopper-medium-replay-v2", 402_000),
        ("antmaze-large-play-v0", 600_000),
        ("ant-medium-expert-v2", 1_500_000),
        ("ant-medium-replay-v1", 302_000),
        ("maze2d-open-dense-v0", 1_000_000),
        ("maze2d-eval-large-v1", 4_000_000),
    ],
)
def test_a_dataset_has_as_many_rows_as_d4rls_by_default(name, rows):
    assert default_transitions(get_task(name)) == rows


def test_every_task_can_be_generated():
    for name in d4rl_tasks.task_names():
        task = get_task(name)
        assert behaviours_of(task) and default_transitions(task)


def test_every_expert_is_an_expert():
    for robot, entries in json.loads(MANIFEST.read_text()).items():
        for entry in entries:
            if entry.get("role") == "expert":
                assert entry["score_sampled"] > 0.8, robot


@pytest.mark.parametrize("name", ["antmaze-umaze-v0", "antmaze-large-diverse-v2"])
def test_antmaze_files_record_goals_and_are_cut_at_them(tmp_path, name):
    path = tmp_path / "maze.hdf5"
    statistics = generate(name, path, transitions=4000)
    arrays, _ = arrays_of(path)
    distance = np.linalg.norm(arrays["next_observations"][:, :2] - arrays["infos/goal"], axis=1)
    np.testing.assert_array_equal(arrays["rewards"] > 0, arrays["terminals"])
    ends = arrays["terminals"] | arrays["timeouts"]
    assert ends[distance < 0.49].all()
    assert 0 <= statistics["goal_rate"] <= 1


@pytest.mark.parametrize("name", ["maze2d-umaze-v1", "maze2d-eval-large-dense-v1"])
def test_maze2d_files_are_continuous_and_cut_at_goals(tmp_path, name):
    path = tmp_path / "maze.hdf5"
    statistics = generate(name, path, transitions=11_000)  # in two lanes
    arrays, attributes = arrays_of(path)
    position, following = arrays["observations"][:, :2], arrays["next_observations"][:, :2]
    cuts = np.flatnonzero(arrays["timeouts"])
    assert not arrays["terminals"].any() and len(cuts) > 10
    distance = np.linalg.norm(following - arrays["infos/goal"], axis=1)
    assert (distance[cuts] < 0.1).mean() > 0.9 and not (np.delete(distance, cuts) < 0.0999).any()
    assert statistics["goal_rate"] > 0.9 and "mean_return" not in statistics
    # A new goal leaves the ball where it is; only a new lane resets it.
    goes_on = (position[cuts[:-1] + 1] == following[cuts[:-1]]).all(axis=1)
    assert np.count_nonzero(~goes_on) == 1
    goals = arrays["infos/goal"]
    assert (goals[cuts[:-1] + 1] != goals[cuts[:-1]]).any(axis=1)[goes_on].all()
    goal = d4rl_tasks.make(name).unwrapped.target_goal
    away = np.linalg.norm(following - goal, axis=1)
    rewards = np.exp(-away) if "dense" in name else away <= 0.5
    np.testing.assert_allclose(arrays["rewards"], rewards, atol=1e-5)
    assert attributes["behaviours"] == ["waypoint controller"]
    assert np.median(verify_file(path, name, samples=500)["D4RL's physics"]) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walker2d", "--out", "."], "walker2d exists already"),
        (["hopper", "--out", "new", "--continue-from", "7"], "by TQC are at 50000, 100000, "),
        (["ant", "--out", "new", "--continue-from", "50000", "--algorithm", "SAC"], "at no steps"),
        (["hopper", "--out", "new", "--steps", "10"], "at least 50,000"),
    ],
)
def test_training_behaviours_refuses_bad_input_in_one_line(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    Path("walker2d").mkdir()
    assert exit_code(train_behaviour.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error


@pytest.mark.parametrize("file", ["hopper/1.npz", "robot/0050000.npz"])
def test_a_behaviour_that_is_not_there_is_named(file):
    with pytest.raises(d4rl_tasks.D4RLTaskError, match=f"no behaviour '{file}'"):
        load_behaviour(file)


def test_goals_and_starts_of_the_variants():
    maze = AntMazeGrid(ANT_LAYOUTS["large"])
    assert goal_cells(maze, "").tolist() == [maze.cell_of("G").tolist()]
    assert len(goal_cells(maze, "diverse")) == len(maze.free_cells())
    play = goal_cells(maze, "play").tolist()
    assert play[0] == maze.cell_of("G").tolist()
    assert [1, 10] in play and [7, 1] in play and [1, 1] not in play


def test_following_the_next_cells_leads_to_the_goal():
    maze = AntMazeGrid(ANT_LAYOUTS["large"])
    goal = maze.cell_of("G")
    table = next_cells(maze, goal)
    for start in maze.free_cells():
        cell, steps = start, 0
        while (cell != goal).any():
            cell, steps = table[tuple(cell)], steps + 1
        assert steps == maze.distances_to(goal)[tuple(start)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walker-expert-v2"], "walker2d-expert-v2"),
        (["hopper-expert-v2", "--transitions", "1", "--out", "x.hdf5"], "at least 2"),
        (["hopper-expert-v2", "--seed", "-1", "--out", "x.hdf5"], "at least 0"),
        (["hopper-expert-v2", "--out", "there.hdf5"], "exists"),
        (
            ["hopper-expert-v2", "--out", "there.hdf5/x.hdf5"],
            "the folder there.hdf5 does not exist",
        ),
        (["hopper-expert-v2", "--out", "new/x.hdf5"], "the folder new does not exist"),
        (["hopper-expert-v2", "--behaviour", "there.hdf5"], "need --out"),
        (["hopper-expert-v2", "--transitions", "50"], "need --out"),
        (["hopper-expert-v2", "--seed", "1"], "need --out"),
        (["hopper-expert-v2", "--seed", "1e30", "--out", "x.hdf5"], "at most 2,147,483,648"),
        (
            ["hopper-expert-v2", "--transitions", "1e300", "--out", "x.hdf5"],
            "at most 1,000,000,000",
        ),
        (["hopper-expert-v2", "--behaviour", "no.npz", "--out", "x.hdf5"], "no.npz does not exist"),
        (["hopper-expert-v2", "--behaviour", "there.hdf5", "--out", "x.hdf5"], "not readable"),
        (["antmaze-umaze-v2", "--behaviour", "there.hdf5", "--out", "x.hdf5"], "without a maze"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("there.hdf5").write_text("precious")
    assert exit_code(main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert [path.name for path in tmp_path.iterdir()] == ["there.hdf5"]
    assert Path("there.hdf5").read_text() == "precious"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(tmp_path, how):
    out = tmp_path / "w.hdf5"
    command = [
        sys.executable,
        "-m",
        "d4rl_tasks.synthetic.generate",
        "walker2d-expert-v2",
        "--out",
        out,
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while "step" not in process.stderr.read(40):
            assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(how)
        error = process.stderr.read()
        assert process.wait(timeout=20) == 128 + how
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["walker2d", "hopper", "halfcheetah", "ant"])
def test_expert_datasets_score_as_the_manifest_says(tmp_path, robot):
    entries = json.loads(MANIFEST.read_text())[robot]
    expert = next(entry for entry in entries if entry.get("role") == "expert")
    statistics = generate(f"{robot}-expert-v2", tmp_path / "e.hdf5", transitions=60_000)
    assert statistics["mean_normalized_score"] == pytest.approx(expert["score_sampled"], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate"), [("umaze", 0.8), ("large-play", 0.5)])
def test_antmaze_episodes_reach_their_goals(tmp_path, name, rate):
    statistics = generate(f"antmaze-{name}-v0", tmp_path / "m.hdf5", transitions=60_000)
    assert statistics["goal_rate"] >= rate
