"""OGBench's single-task environments: datasets, episodes, scores, and the main job on them."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from http_servers import running_server
from runs import exit_code_and_errors, rows_of

from d4rl_tasks import D4RLTaskError, ogbench_tasks
from d4rl_tasks.synthetic.generate_ogbench import ORACLES, generate
from main_training import main

MAZE, CUBE = "pointmaze-medium-navigate-singletask-v0", "cube-single-play-singletask-v0"
TELEPORT = "pointmaze-teleport-navigate-singletask-task2-v0"
FILES = {MAZE: "pointmaze-medium-navigate-v0", CUBE: "cube-single-play-v0"}
TASKS = (MAZE, TELEPORT, CUBE, "scene-play-singletask-v0", "puzzle-3x3-play-singletask-v0")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home without datasets, and a dataset folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "datasets"))
    return tmp_path


@pytest.fixture
def ogbench():
    return pytest.importorskip("ogbench")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small synthetic dataset of each task, an .npz file."""
    pytest.importorskip("ogbench")
    folder = tmp_path_factory.mktemp("ogbench")
    for name in FILES.values():
        generate(name, folder / f"{name}.npz", 2_000)
        shutil.copy(folder / f"{name}.npz", folder / f"{name}-val.npz")
    return folder


def fails(words, name, source="auto"):
    with pytest.raises(D4RLTaskError, match=words) as caught:
        ogbench_tasks.load_dataset(name, source)
    assert "\n" not in str(caught.value)


# Datasets


@pytest.mark.parametrize("name", FILES)
def test_transitions_rewards_and_masks_are_ogbenchs(ogbench, files, name, capsys):
    path = files / f"{FILES[name]}.npz"
    ours = ogbench_tasks.load_dataset(name, str(path))
    _, theirs, _ = ogbench.make_env_and_datasets(name, dataset_path=str(path))
    for key in ("observations", "actions", "next_observations", "rewards"):
        assert ours[key].dtype == np.float32
        np.testing.assert_array_equal(ours[key], theirs[key])
    np.testing.assert_array_equal(ours.terminals, 1 - theirs["masks"])
    assert len(ours) == 2_000 and 0 < ours.terminals.sum() < 400
    assert ours.synthetic and "synthetic dataset" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ORACLES)
def test_a_synthetic_dataset_depends_on_its_seed_alone(ogbench, tmp_path, dataset):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    contents = []
    for seed in (0, 0, 1):
        generate(dataset, tmp_path / "data.npz", 1_000, seed)
        contents.append((tmp_path / "data.npz").read_bytes())
        (tmp_path / "data.npz").unlink()
    assert contents[0] == contents[1] != contents[2]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_the_point_walks_to_its_goals_and_the_arm_moves_the_cube(files):
    with np.load(files / f"{FILES[MAZE]}.npz") as file:
        assert len(np.unique(file["observations"].round(-1), axis=0)) > 5
        steps = np.linalg.norm(np.diff(file["qpos"], axis=0), axis=1)
        assert 0.1 < np.median(steps) < 0.3
    with np.load(files / f"{FILES[CUBE]}.npz") as file:
        cube, ends = file["qpos"][:, 14:17], file["terminals"]
        assert cube[:, 2].max() > 0.1 and cube[:, 2].min() < 0.03
        places = cube[cube[:, 2] < 0.025][:, :2].round(1)
        assert len(np.unique(places, axis=0)) > 4
        assert np.flatnonzero(ends).tolist() == [1_000, 2_001]


def test_no_oracle_for_other_datasets(ogbench, tmp_path):
    with pytest.raises(D4RLTaskError, match="antmaze-medium-navigate-v0 cannot be generated"):
        generate("antmaze-medium-navigate-v0", tmp_path / "data.npz")
    assert not (tmp_path / "data.npz").exists()


def test_a_dataset_is_generated_once(ogbench, home, capsys):
    first = ogbench_tasks.load_dataset(MAZE, "synthetic")
    assert "generating a synthetic dataset" in capsys.readouterr().err
    second = ogbench_tasks.load_dataset(MAZE, "synthetic")
    assert "generating" not in capsys.readouterr().err
    assert first.path == second.path == home / "datasets" / f"synthetic-{FILES[MAZE]}.npz"
    assert len(first) == 100_000 and first.sha256 == second.sha256


def test_ogbench_downloads_what_is_not_there(ogbench, files, home, monkeypatch):
    def answer(handler):
        body = (files / Path(handler.path).name).read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with running_server(answer) as server:
        monkeypatch.setattr("ogbench.utils.DATASET_URL", server.address)
        first = ogbench_tasks.load_dataset(CUBE)
        assert ogbench_tasks.load_dataset(CUBE, "ogbench").sha256 == first.sha256
        assert len(server.requests) == 2  # the file, and OGBench's validation file
    assert first.source == "ogbench" and first.path.parent == home / ".ogbench" / "data"


def test_a_server_that_breaks_off_is_one_line(ogbench, home, monkeypatch):
    def answer(handler):
        handler.wfile.write(b"nonsense\r\n\r\n")

    with running_server(answer) as server:
        monkeypatch.setattr("ogbench.utils.DATASET_URL", server.address)
        fails("OGBench cannot download cube-single-play-v0", CUBE, "ogbench")
    assert not (home / ".ogbench" / "data" / "cube-single-play-v0.npz").exists()


def test_what_cannot_be_downloaded_is_generated_where_there_is_an_oracle(ogbench, home, capsys):
    assert ogbench_tasks.load_dataset(MAZE).source == "synthetic"
    assert "OGBench cannot download pointmaze-medium-navigate-v0" in capsys.readouterr().err
    fails("OGBench cannot download pointmaze-medium-navigate-v0", MAZE, "ogbench")
    other = "antmaze-large-navigate-singletask-v0"
    capsys.readouterr()
    fails("OGBench cannot download antmaze-large-navigate-v0", other)
    assert "synthetic" not in capsys.readouterr().err
    fails("antmaze-large-navigate-v0 cannot be generated", other, "synthetic")


# Files that are not datasets of the task


def changed(path, **changes):
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


class _Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terminals": None}, "terminals"),
        ({"qpos": None}, "qpos"),
        ({"observations": np.zeros((2_002, 3))}, r"observations of shape \(2000, 3\)"),
        ({"observations": np.full((2_002, 2), np.nan)}, "NaN or infinity in 'observations'"),
        ({"actions": np.full((2_002, 2), 1.5)}, r"actions outside \[-1, 1\]"),
        ({"actions": np.zeros((2_000, 2))}, "arrays of different lengths"),
        ({"terminals": np.zeros(2_002)}, "none in its last row"),
        ({"terminals": np.full(2_002, 0.5)}, "terminals other than 0 and 1"),
        ({"actions": np.array([_Harmful()] * 2_002)}, "is not a dataset of this task"),
    ],
)
def test_wrong_arrays_are_refused(files, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.npz"
    shutil.copy(files / f"{FILES[MAZE]}.npz", path)
    changed(path, **changes)
    fails(words, MAZE, path)
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_files_that_are_not_archives_are_refused(files, tmp_path, content):
    path = tmp_path / "data.npz"
    whole = (files / f"{FILES[MAZE]}.npz").read_bytes()
    path.write_bytes(whole[:5_000] if content is None else content)
    fails("is not a dataset of this task", MAZE, path)
    fails("does not exist|No such file", MAZE, tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cube-single-play-v0", "not a single-task environment"),
        ("walker2d-expert-v2", "not a single-task environment"),
        ("antmaze-../../etc-singletask-v0", "not a single-task environment"),
        ("antmaze-tiny-navigate-singletask-v0", "no environment antmaze-tiny-singletask-v0"),
        ("antmaze-medium-navigate-singletask-task9-v0", "no environment antmaze-medium"),
        ("visual-cube-single-play-singletask-v0", "give cube-single-play-singletask-v0"),
    ],
)
def test_names_of_no_task(ogbench, name, words):
    fails(words, name)


@pytest.mark.parametrize("source", ["d4rl", "minari:x", "data.hdf5"])
def test_sources_of_other_backends(ogbench, source):
    fails("unknown source", MAZE, source)


def test_without_ogbench_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    ogbench_tasks._ogbench.cache_clear()
    ogbench_tasks.get_task.cache_clear()
    fails("pip install -r requirements-ogbench.txt", MAZE)


# Episodes


def played_alone(name, seed, actions):
    """The environment's own rollout, seeded from the outside."""
    environment = ogbench_tasks.make(name)
    np.random.seed(seed)  # noqa: NPY002 (that is what these environments draw from)
    environment.unwrapped.action_space.seed(seed)
    observations, rewards = [environment.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, terminated, truncated, _ = environment.step(action)
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    environment.close()
    return np.array(observations), np.array(rewards), terminated


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("again", [False, True])
def test_episodes_are_those_of_the_environment(ogbench, name, again):
    seeds, steps = [3, 4, 5], 150
    episodes = ogbench_tasks.make_vec(name, len(seeds))  # the second time with used environments
    size = episodes.environments[0].action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, len(seeds), size))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    observations, _ = episodes.reset(seed=seeds)
    seen, rewards = [observations], []
    for step in actions.astype(np.float32):
        observations, reward, *_ = episodes.step(step)
        seen.append(observations)
        rewards.append(reward)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    for index, seed in enumerate(seeds):
        own = actions[:, index].astype(np.float32)
        expected, their_rewards, done = played_alone(name, seed, own)
        length = len(their_rewards)
        np.testing.assert_array_equal(np.array(seen)[: length + 1, index], expected)
        np.testing.assert_array_equal(np.array(rewards)[:length, index], their_rewards)
        assert episodes.scores(np.zeros(3))[index] == done
    episodes.close()


def test_a_point_that_reaches_the_goal_scores_1(ogbench):
    episodes = ogbench_tasks.make_vec(MAZE, 2)
    episodes.reset(seed=[0, 1])
    maze = episodes.environments[0].unwrapped
    while episodes.active.any():
        subgoal, _ = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)
        step = subgoal - maze.get_xy()
        towards = step / (np.linalg.norm(step) + 1e-6)
        episodes.step(np.array([towards, np.zeros(2)], np.float32))  # the other stands still
    assert episodes.scores(np.zeros(2)).tolist() == [1, 0]
    episodes.close()


# The main job


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_main_job_trains_on_it_and_resumes(files, capsys):
    options = ["--backend", "ogbench", "--env", CUBE, "--source", str(files / f"{FILES[CUBE]}.npz")]
    options += ["--policy", "DMPO", "--hidden", "8", "8", "--batch_size", "16", "--logger", "none"]
    options += ["--eval_freq", "10", "--eval_episodes", "2"]
    assert main([*options, "--max_timesteps", "10"]) == 0
    assert main([*options, "--max_timesteps", "20"]) == 0
    assert "resumed at step 10" in capsys.readouterr().out
    assert [int(row["step"]) for row in rows_of()] == [10, 20]
    for row in rows_of():
        assert 0 <= float(row["score_mean"]) <= 1 and -200 <= float(row["return_mean"]) <= 0


@pytest.mark.usefixtures("in_an_empty_folder")
def test_bad_input_in_one_line(ogbench):
    argv = ["--policy", "IQL", "--backend", "ogbench", "--env", "walker2d-expert-v2"]
    code, errors = exit_code_and_errors(argv)
    assert code == 2 and len(errors) == 1 and "not a single-task environment" in errors[0]
