"""Models that are played: episodes, videos, components."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

import d4rl_tasks
from d4rl_tasks.rendering import PROBE
from experiment.evaluation import Normalizer, evaluate
from experiment.files import read_content, write_content
from experiment.models import save_model
from experiment.options import policy_module
from report import main
from reports.latent import principal_components, shares, use_over_time, window
from reports.models import Episode, Model, play, read_model
from reports.style import component_colours
from reports.video import FOOT, SIZE, _frames, compose
from reports.whole import figures_of_run
from utils import RunSpec

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


def model_path(trained, policy="DMPO"):
    """The model of the policy's run with seed 1."""
    (path,) = [
        path
        for path in trained.glob(f"models/{policy}_hopper*_seed1_*.safetensors")
        if ".checkpoint" not in path.name
    ]
    return path


def command(*arguments, **environment):
    line = [sys.executable, ROOT / "report.py", *arguments]
    return subprocess.run(
        list(map(str, line)), env=os.environ | environment, capture_output=True, text=True
    )


def test_a_model_of_another_backends_task_is_refused_and_its_run_still_has_figures(
    trained, tmp_path, capsys
):
    shutil.copytree(trained, tmp_path / "runs")
    path = model_path(tmp_path / "runs")
    (config,) = (tmp_path / "runs").glob(f"results/DMPO/{path.stem}.json")
    text = config.read_text().replace('"hopper-medium-v2"', '"cube-single-play-singletask-v0"')
    config.write_text(text)
    content = read_content(path)
    write_content(path, content | {"config": json.loads(text)})
    assert figures_of_run(config, path).keys() == figures_of_run(config, None).keys()
    assert main(["latent", "--model", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a task of another backend" in line


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant", "AWAC", "IQL"])
def test_episodes_are_those_of_the_evaluation(trained, policy):
    model = read_model(model_path(trained, policy))
    episodes = play(model, episodes=3, seed=1)
    returns = evaluate(model.policy, model.normalizer, model.env, 3, 1).returns
    np.testing.assert_allclose([e.returns[-1] for e in episodes], returns, rtol=1e-12)
    components = 8 if policy.startswith("DMPO") else 0
    for episode in episodes:
        assert episode.values.shape == (len(episode.returns), components)
        assert len(episode.states) == len(episode.qpos) == len(episode.qvel)


def test_the_component_that_acts_is_the_most_valued(trained):
    model = read_model(model_path(trained))
    (episode,) = play(model, episodes=1, seed=1)
    actions = model.policy.select_action(episode.states)
    for index in range(model.components):
        acted = episode.components == index
        own = model.policy.select_action_of(episode.states[acted], index)
        np.testing.assert_allclose(own, actions[acted], atol=1e-6)
    assert shares([episode], model.components).sum() == pytest.approx(1)


def test_figures_of_a_run_are_those_of_the_report_and_its_components(trained):
    (config,) = trained.glob("results/DMPO/*.json")
    names = list(figures_of_run(config, model_path(trained)))
    assert names[:3] == ["learning_curves", "critic_loss", "critic_loss_accumulated"]
    assert names[-1] == "latent" and "diagnostics" in names
    assert "latent" not in figures_of_run(config, None)
    (config,) = trained.glob("results/IQL/*.json")
    assert "latent" not in figures_of_run(config, model_path(trained, "IQL"))


# Videos


@pytest.fixture(scope="session")
def gif(renderer, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("video") / "episodes.gif"
    done = command("video", "--model", model_path(trained), "--episodes", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_gif_shows_every_episode_in_real_time(trained, gif):
    frames = imageio.imread(gif)
    episodes = play(read_model(model_path(trained)), episodes=2, seed=1)
    # A hopper step is 8 ms; 15 frames a second show every eighth.
    assert len(frames) == sum(-(-len(episode.returns) // 8) for episode in episodes)
    assert frames.shape[1:] == (SIZE + FOOT, SIZE, 3)
    assert frames[0][:SIZE].std() > 5


@pytest.mark.slow
def test_an_mp4_plays(renderer, trained, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "episode.mp4"
    done = command("video", "--model", model_path(trained, "AWAC"), "--out", out)
    assert done.returncode == 0, done.stderr
    frames = imageio.imread(out, plugin="FFMPEG")
    (episode,) = play(read_model(model_path(trained, "AWAC")), episodes=1, seed=1)
    assert frames.shape == (-(-len(episode.returns) // 4), SIZE + FOOT, SIZE, 3)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_osmesa_draws_where_egl_does_not(trained, tmp_path):
    without_egl = {"__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path), "MUJOCO_GL": ""}
    probe = [sys.executable, "-c", PROBE]
    osmesa = os.environ | without_egl | {"MUJOCO_GL": "osmesa"}
    if subprocess.run(probe, env=osmesa, capture_output=True).returncode:
        pytest.skip("OSMesa is not installed")
    out = tmp_path / "episode.gif"
    done = command("video", "--model", model_path(trained), "--out", out, **without_egl)
    assert done.returncode == 0, done.stderr
    assert imageio.imread(out)[0][:SIZE].std() > 5


@pytest.mark.parametrize(
    "environment", [{"MUJOCO_GL": "", "PYOPENGL_PLATFORM": "none"}, {"MUJOCO_GL": "nonsense"}]
)
def test_where_nothing_draws_one_line_says_so(trained, tmp_path, environment):
    out = tmp_path / "episode.gif"
    done = command("video", "--model", model_path(trained), "--out", out, **environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot draw" in done.stderr and not out.exists()


def make_policy(components):
    module = policy_module("DMPO")
    hyperparameters = module.Hyperparameters(latent_disc_dim=components, hidden=(8, 8))
    torch.manual_seed(0)
    return module.DMPO(RunSpec(state_dim=11, action_dim=3), hyperparameters)


def make_model(components=3, env="hopper-medium-v2", policy=None):
    blank = Normalizer(np.zeros(11, np.float32), np.ones(11, np.float32))
    return Model("run", policy or make_policy(components), blank, env, 1)


def episode_of(components, count):
    """An episode in which these components act."""
    values = np.eye(count, dtype=np.float32)[components]
    steps = len(components)
    return Episode(*(np.zeros((steps, 1)),) * 3, 100.0 * np.arange(steps), values, None)


def black():
    return np.zeros((SIZE, SIZE, 3), np.uint8)


def test_the_bar_shows_the_components_up_to_now():
    frame = compose(black(), make_model(), episode_of([0, 0, 2, 1], count=3), 2)
    assert frame.shape == (SIZE + FOOT, SIZE, 3) and not frame[:SIZE].any()
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in component_colours(3)]
    bar = [tuple(int(x) for x in frame[SIZE + 16, column]) for column in (60, 180, 300, 420)]
    assert bar == [colours[0], colours[0], colours[2], (0xDD, 0xDD, 0xDD)]


def test_policy_task_and_score_stand_in_the_picture():
    """Each changes pixels of the last line only."""
    episode, model = episode_of([0, 0, 2, 1], count=3), make_model()
    frame = compose(black(), model, episode, 1)

    class OtherPolicy(type(model.policy)):
        pass

    other = make_policy(3)
    other.__class__ = OtherPolicy
    for changed in (make_model(env="hopper-expert-v1"), make_model(policy=other)):
        rows = np.argwhere((compose(black(), changed, episode, 1) != frame).any((1, 2)))
        assert rows.size and rows.min() > SIZE + 64
    later = (compose(black(), model, episode, 3) != frame).any((1, 2))
    assert later[SIZE + 64 :].any()  # the score so far


@pytest.mark.parametrize("count", [1, 8, 30, 31, 1000])
def test_any_number_of_components_has_room(count):
    frame = compose(black(), make_model(count), episode_of([0, count - 1], count), 1)
    assert (frame[SIZE + 30 : SIZE + 62, :330] != 255).any()


# Components


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant"])
def test_latent_draws_and_prints_which_component_acts(trained, tmp_path, policy, capsys):
    model = model_path(trained, policy)
    arguments = ["latent", "--model", str(model), "--episodes", "2"]
    assert main([*arguments, "--out", str(tmp_path / "which.png")]) == 0
    assert (tmp_path / "which.png").read_bytes().startswith(PNG)
    assert b"</svg>" in (tmp_path / "which.svg").read_bytes()
    percent = re.findall(r"acts in +([\d.]+) %", capsys.readouterr().out)
    assert len(percent) == 8 and sum(map(float, percent)) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize("count", [1, 12, 50])
def test_latent_with_other_numbers_of_components(trained, tmp_path, count, capsys):
    from experiment.models import read_model_info

    path, blank = tmp_path / "run.safetensors", make_model().normalizer
    save_model(path, make_policy(count), blank, read_model_info(model_path(trained)))
    assert main(["latent", "--model", str(path), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.count("acts in") == count


def test_latent_writes_beside_the_model(trained, tmp_path):
    model = shutil.copy(model_path(trained), tmp_path / "run_scale1.5.safetensors")
    assert main(["latent", "--model", str(model), "--episodes", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("run_scale1.5.safetensors", "run_scale1.5_latent.png", "run_scale1.5_latent.svg"),
    }


@pytest.mark.parametrize("folder", [".", "..", "sub", "./sub/../sub/"])
def test_latent_writes_into_a_folder(trained, tmp_path, monkeypatch, folder):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    model = shutil.copy(model_path(trained), tmp_path / "here" / "run.safetensors")
    assert main(["latent", "--model", model.name, "--episodes", "1", "--out", folder]) == 0
    assert (Path(folder) / "run_latent.png").read_bytes().startswith(PNG)


def test_the_window_is_the_middle_of_the_episode():
    assert window(episode_of([0] * 1000, 1)) == slice(425, 575)
    assert window(episode_of([0] * 20, 1)) == slice(0, 20)


def test_use_over_time_counts_the_episodes_that_still_run():
    edges, share = use_over_time([episode_of([0, 0, 1], 2), episode_of([1], 2)], 2)
    assert edges.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(share, [[0.5, 1, 0], [0.5, 0, 1]])


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    points, held = principal_components(states)
    variances = np.linalg.eigvalsh(np.cov(states.T, ddof=0))[::-1]
    np.testing.assert_allclose(points.var(0), variances[:2])
    np.testing.assert_allclose(held, variances[:2] / variances.sum())


def test_a_policy_that_stays_in_one_state_has_no_directions():
    points, held = principal_components(np.ones((3, 4)))
    assert not points.any() and not held.any()


def untrained(env, states, actions):
    """A model of a policy that was not trained."""
    policy = policy_module("DMPO").DMPO(
        RunSpec(state_dim=states, action_dim=actions),
        policy_module("DMPO").Hyperparameters(hidden=(8, 8)),
    )
    blank = Normalizer(np.zeros(states, np.float32), np.ones(states, np.float32))
    return Model("run", policy, blank, env, 1)


@pytest.mark.parametrize(
    ("env", "states", "actions"), [("antmaze-umaze-v0", 29, 8), ("maze2d-umaze-v1", 4, 2)]
)
def test_a_model_in_a_maze_has_a_goal(env, states, actions):
    (episode,) = play(untrained(env, states, actions), episodes=1, seed=1)
    with_goal = d4rl_tasks.make(env)
    np.testing.assert_array_equal(episode.goal, with_goal.unwrapped.target_goal)


def test_a_maze_that_draws_its_goal_gets_no_second_one(renderer):
    model = untrained("maze2d-umaze-v1", 4, 2)
    (episode,) = play(model, episodes=1, seed=1)
    environment = d4rl_tasks.make(model.env, render_mode="rgb_array", width=SIZE, height=SIZE)
    frame = next(_frames(environment, model, episode, 1))
    environment.unwrapped.set_state(episode.qpos[0], episode.qvel[0])
    np.testing.assert_array_equal(frame[:SIZE], environment.render())
    environment.close()
