"""`d4rl_tasks.original`: gym, d4rl and mujoco-py behind our functions, and a policy on both."""

from pathlib import Path

import d4rl.offline_env
import gymnasium
import h5py
import numpy as np
import pytest
import scipy.stats
import torch

import d4rl_tasks
from d4rl_tasks import D4RLTaskError, original
from d4rl_tasks.synthetic.generate import generate
from experiment.models import load_policy
from main_training import main

HOPPER = "hopper-medium-expert-v2"
BEYOND_OURS = "ant-random-expert-v0"
TASKS = (
    *("halfcheetah-medium-v2", "hopper-expert-v0", "walker2d-full-replay-v2", "ant-random-v1"),
    *("antmaze-umaze-v0", "antmaze-large-play-v2", "maze2d-medium-v1", "maze2d-open-dense-v0"),
)


@pytest.fixture(scope="module")
def saved_policy(tmp_path_factory):
    """A policy trained for a few seconds, read from its run's model, and its normaliser.

    Plain regression, so that it hops well enough to be worth evaluating.
    """
    folder = tmp_path_factory.mktemp("run")
    generate(HOPPER, folder / "hopper.hdf5", transitions=10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = f"--policy AWAC --env {HOPPER} --source hopper.hdf5 --scale 0 --batch_size 128"
        assert main([*command.split(), "--max_timesteps", "1500"]) == 0
        (path,) = (folder / "models").glob("*_????????.safetensors")
        return load_policy(path)


def roll_out(policy, normalizer, environment, observations, steps=1_000):
    """(episodes,) returns of the first steps."""
    returns = np.zeros(len(observations))
    for _ in range(steps):
        if not environment.active.any():
            break
        actions = policy.select_action(normalizer(observations))
        observations, rewards, _, _, _ = environment.step(actions)
        returns += rewards
    return returns


def test_from_the_same_states_a_policy_has_the_same_returns_for_20_steps(saved_policy):
    ours, theirs = d4rl_tasks.make_vec(HOPPER, 10), original.make_vec(HOPPER, 10)
    observations, _ = ours.reset(seed=list(range(10)))
    theirs.reset(seed=list(range(10)))
    for index, environment in enumerate(theirs.environments):
        environment.unwrapped.set_state(ours.qpos[index], ours.qvel[index])
    expected = roll_out(*saved_policy, theirs, observations, steps=20)
    np.testing.assert_allclose(
        roll_out(*saved_policy, ours, observations, steps=20), expected, rtol=0, atol=1e-6
    )
    uncorrected = gymnasium.make("Hopper-v4").unwrapped
    uncorrected.reset()
    policy, normalizer = saved_policy
    uncorrected.set_state(ours.qpos[0], ours.qvel[0])
    observation, total = observations[:1], 0.0
    ours.close()
    for _ in range(20):
        action = policy.select_action((observation - normalizer.mean) / normalizer.std)[0]
        observation, reward, _, _, _ = uncorrected.step(action)
        observation, total = observation[None], total + reward
    assert abs(total - expected[0]) > 1e-4


def test_over_100_episodes_a_policy_has_the_same_distribution_of_returns(saved_policy):
    returns = []
    for backend, first_seed in ((d4rl_tasks, 0), (original, 1_000)):
        environment = backend.make_vec(HOPPER, 100)
        observations, _ = environment.reset(seed=list(range(first_seed, first_seed + 100)))
        returns.append(roll_out(*saved_policy, environment, observations))
        environment.close()
    assert np.std(returns, axis=1).min() > 5
    # All is seeded: a failure is a change of one of the two, not bad luck.
    assert scipy.stats.ks_2samp(*returns).pvalue > 0.05
    assert scipy.stats.ttest_ind(*returns, equal_var=False).pvalue > 0.05


@pytest.mark.parametrize("name", TASKS)
def test_tasks_and_scores_are_the_same(name):
    ours, theirs = d4rl_tasks.get_task(name), original.get_task(name)
    assert (theirs.name, theirs.robot, theirs.url) == (ours.name, ours.robot, ours.url)
    assert theirs.max_episode_steps == ours.max_episode_steps
    returns = np.array([-100.0, 0.0, 0.5, 4_000.0])
    np.testing.assert_allclose(
        original.normalized_score(name, returns),
        d4rl_tasks.normalized_score(name, returns),
        rtol=1e-12,
    )


def test_all_86_tasks_are_registered_alike():
    for name in d4rl_tasks.task_names():
        spec, task = original._spec(name), d4rl_tasks.get_task(name)
        kwargs = spec.kwargs
        assert kwargs["dataset_url"] == task.url
        assert spec.max_episode_steps == task.max_episode_steps
        assert kwargs["ref_min_score"] == task.ref_min_score
        assert kwargs["ref_max_score"] == task.ref_max_score


@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-umaze-v0", "antmaze-umaze-v2"])
def test_a_seed_determines_an_episode(name):
    environment = original.make_vec(name, 3)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, _ = environment.reset(seed=[5, 6, 5])
    robots = [one.unwrapped.wrapped_env for one in environment.environments]
    goals = [vars(robot).get("target_goal") for robot in robots]
    assert (first[0] == first[2]).all() and (first[0] != first[1]).any()
    assert goals[0] == goals[2]
    if name.startswith("antmaze"):
        assert (goals[0] == goals[1]) == name.endswith("v0")
    actions = np.full((3, environment.environments[0].action_space.shape[0]), 0.3, np.float32)
    after = environment.step(actions)[0]
    environment.reset(seed=[5, 6, 5])
    np.testing.assert_array_equal(environment.step(actions)[0], after)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_environments_are_used_again():
    def open_files():
        return len(list(Path("/proc/self/fd").iterdir()))

    first = original.make_vec("antmaze-umaze-v0", 2)
    environments = set(first.environments)
    first.close()
    before = open_files()
    for _ in range(3):
        again = original.make_vec("antmaze-umaze-v0", 2)
        assert set(again.environments) == environments
        again.close()
    assert open_files() == before


def test_finished_episodes_stand_still_and_time_limits_end_no_episode():
    environment = original.make_vec("hopper-medium-v2", 2)
    environment.reset(seed=[0, 1])
    rng = np.random.default_rng(0)
    while environment.active.all():
        actions = rng.uniform(-1, 1, (2, 3))
        observations, _, terminated, truncated, _ = environment.step(actions)
    fallen = int(np.flatnonzero(terminated)[0])
    later, rewards, _, _, _ = environment.step(np.zeros((2, 3)))
    np.testing.assert_array_equal(later[fallen], observations[fallen])
    assert rewards[fallen] == 0 and not truncated.any()
    cheetah = original.make_vec("halfcheetah-medium-v2", 1)
    cheetah.reset(seed=[0])
    for _ in range(1_000):
        assert cheetah.active.all()
        _, _, terminated, truncated, _ = cheetah.step(np.zeros((1, 6)))
    assert truncated.all() and not terminated.any() and not cheetah.active.any()


def write_flat(path, count):
    """A file of ant's sizes."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((count, 111)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (count, 8)).astype(np.float32)
        file["rewards"] = np.zeros(count, np.float32)
        file["terminals"] = file["timeouts"] = np.zeros(count, bool)


def test_a_task_beyond_ours(tmp_path):
    name = BEYOND_OURS
    assert name not in d4rl_tasks.task_names()
    task = original.get_task(name)
    assert (task.robot, task.quality, task.max_episode_steps) == ("ant", "random-expert", 1000)
    environment = original.make_vec(name, 2)
    observations, _ = environment.reset(seed=[0, 1])
    assert observations.shape == (2, 111)
    write_flat(tmp_path / "ant.hdf5", 20)
    dataset = original.load_dataset(name, tmp_path / "ant.hdf5")
    assert dataset.observations.shape == (19, 111) and dataset.terminals.dtype == np.float32
    assert (dataset.source, dataset.synthetic) == ("file", False)
    score = original.normalized_score(name, task.ref_max_score)
    assert score == pytest.approx(1)


def test_a_generated_dataset_is_that_of_our_loader(tmp_path, monkeypatch):
    path = tmp_path / "hopper.hdf5"
    generate("hopper-medium-v2", path, 1_000)
    ours = d4rl_tasks.load_dataset("hopper-medium-v2", path)
    theirs = original.load_dataset("hopper-medium-v2", path)
    assert theirs.synthetic and theirs.sha256 == ours.sha256
    for key in ("observations", "actions", "next_observations", "rewards", "terminals"):
        assert getattr(theirs, key).dtype == np.float32
        np.testing.assert_array_equal(getattr(theirs, key), getattr(ours, key))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("walker-v2", "auto", "unknown task"),
        ("pen-human-v1", "auto", "mjrl"),
        ("hopper-medium-v2", "minari:x", "minari:x"),
        ("hopper-medium-v2", "nowhere.hdf5", "nowhere.hdf5"),
        (BEYOND_OURS, "synthetic", "cannot be generated"),
        (BEYOND_OURS, "nowhere.hdf5", "nowhere.hdf5"),
        ("minigrid-fourrooms-v0", "auto", "minigrid"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path, monkeypatch, name, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(D4RLTaskError, match=words) as caught:
        original.load_dataset(name, source)
    assert "\n" not in str(caught.value)


def test_a_file_that_d4rl_cannot_read_is_one_line(tmp_path):
    (tmp_path / "bad.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(D4RLTaskError, match=r"bad\.hdf5"):
        original.load_dataset(BEYOND_OURS, tmp_path / "bad.hdf5")


def test_a_dataset_beyond_ours_is_downloaded_by_d4rl(tmp_path, monkeypatch):
    """From a port at which nobody listens; the folder is the one d4rl keeps its files in."""
    monkeypatch.setattr(d4rl.offline_env, "DATASET_PATH", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(D4RLTaskError, match=r"d4rl cannot download http.*refused"):
        original.load_dataset(BEYOND_OURS)
    assert not list(tmp_path.iterdir())
    write_flat(tmp_path / "ant_random_expert.hdf5", 20)
    dataset = original.load_dataset(BEYOND_OURS)
    assert (dataset.source, len(dataset.rewards)) == ("d4rl", 19)


def test_both_run_in_one_process_with_their_own_library():
    torch.zeros(1)
    import mujoco
    import mujoco_py

    assert mujoco.mj_versionString() != "2.1.0"
    assert "mujoco210" in mujoco_py.builder.discover_mujoco()
