"""Datasets that Minari wrote itself, as tasks: transitions, environments, scores, the main job."""

import json

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict
from gymnasium.vector import SyncVectorEnv
from minari.data_collector import EpisodeBuffer
from runs import exit_code_and_errors, one_file, rows_of

from d4rl_tasks import D4RLTaskError, minari_tasks
from d4rl_tasks.synthetic.generate import generate
from d4rl_tasks.to_minari import convert
from main_training import main

NAME = "local/hopper/random-v0"
LENGTHS = (30, 12, 40, 40, 40, 40, 40, 40)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A folder for Minari's datasets, and nothing remembered of those of other tests."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for function in (minari_tasks._stored, minari_tasks.get_task):
        function.cache_clear()


def record(environment, length, seed):
    """An episode of random actions; cut after `length` steps if it does not end before."""
    environment.action_space.seed(seed)
    observations, actions, rewards = [environment.reset(seed=seed)[0]], [], []
    terminated = False
    while not terminated and len(actions) < length:
        actions.append(environment.action_space.sample())
        observation, reward, terminated, _, _ = environment.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
    ends = np.arange(1, len(actions) + 1) == len(actions)
    return EpisodeBuffer(
        observations=np.array(observations),
        actions=np.array(actions),
        rewards=np.array(rewards),
        terminations=ends & terminated,
        truncations=ends & (not terminated),
    )


def store(env_id, name=NAME, episodes=None, lengths=LENGTHS, **options):
    """Record a dataset; returns its episodes."""
    environment = gymnasium.make(env_id)
    episodes = episodes or [record(environment, n, seed) for seed, n in enumerate(lengths)]
    minari.create_dataset_from_buffers(
        name,
        episodes,
        **{"env": environment, "author": "a", "author_email": "a@b", **options},
    )
    return episodes


def test_transitions_are_those_of_the_episodes():
    episodes = store("Hopper-v5")
    dataset = minari_tasks.load_dataset(NAME)
    assert dataset.source == f"minari:{NAME}" and not dataset.synthetic
    assert len(dataset) == sum(len(one.rewards) for one in episodes)
    parts = {
        "observations": [one.observations[:-1] for one in episodes],
        "actions": [one.actions for one in episodes],
        "next_observations": [one.observations[1:] for one in episodes],
        "rewards": [one.rewards for one in episodes],
        "terminals": [one.terminations for one in episodes],
    }
    for key, part in parts.items():
        assert dataset[key].dtype == np.float32
        np.testing.assert_array_equal(dataset[key], np.concatenate(part).astype(np.float32))


@pytest.mark.parametrize(("env", "largest"), [("Hopper-v5", 1), ("Pendulum-v1", 2)])
def test_episodes_side_by_side_are_those_of_gymnasium(env, largest):
    store(env)
    ours = minari_tasks.make_vec(NAME, 3)
    theirs = SyncVectorEnv([lambda: gymnasium.make(env)] * 3)
    observations, _ = ours.reset(seed=[1, 2, 3])
    expected, _ = theirs.reset(seed=[1, 2, 3])
    rng, size = np.random.default_rng(0), theirs.single_action_space.shape[0]
    running, steps = np.ones(3, dtype=bool), 0
    while ours.active.any() and steps < 100:
        np.testing.assert_array_equal(observations[running], expected[running])
        actions = rng.uniform(-1, 1, (3, size)).astype(np.float32)
        observations, rewards, terminated, truncated, _ = ours.step(actions)
        expected, their_rewards, *ends, _ = theirs.step(largest * actions)
        np.testing.assert_array_equal(rewards, np.where(running, their_rewards, 0))
        np.testing.assert_array_equal(terminated | truncated, running & (ends[0] | ends[1]))
        running &= ~(ends[0] | ends[1])
        np.testing.assert_array_equal(ours.active, running)
        steps += 1
    assert steps > 5
    ours.close()


def test_actions_are_scaled_to_their_bounds():
    episodes = store("Pendulum-v1")
    actions = np.concatenate([one.actions for one in episodes])
    np.testing.assert_allclose(minari_tasks.load_dataset(NAME)["actions"], actions / 2, rtol=1e-6)


def test_scores_go_from_a_random_policy_to_the_best_episode(capsys):
    store("Pendulum-v1", lengths=(200, 5))
    task = minari_tasks.get_task(NAME)
    best = max(one.rewards.sum() for one in minari.load_dataset(NAME).iterate_episodes())
    assert task.ref_max_score == pytest.approx(best)
    assert -1800 < task.ref_min_score < -900  # a random policy's, which takes 200 steps
    assert task.max_episode_steps == 200
    (note,) = capsys.readouterr().err.splitlines()
    assert "no reference returns" in note and f"({best:.1f})" in note
    ends = [task.ref_min_score, task.ref_max_score]
    np.testing.assert_allclose(minari_tasks.normalized_score(NAME, np.array(ends)), [0, 1])


def test_reference_returns_that_the_dataset_states(capsys):
    store("Pendulum-v1", ref_min_score=-1500.0, ref_max_score=-100.0)
    assert minari_tasks.normalized_score(NAME, -800.0) == pytest.approx(0.5)
    assert capsys.readouterr().err == ""


def test_the_environment_of_evaluations_comes_first():
    store("Pendulum-v1", eval_env=gymnasium.make("Pendulum-v1", max_episode_steps=70))
    assert minari_tasks.get_task(NAME).max_episode_steps == 70


def test_an_environment_without_a_time_limit_is_refused():
    endless = EnvSpec("Endless-v0", entry_point=gymnasium.spec("Pendulum-v1").entry_point)
    gymnasium.register("Endless-v0", endless.entry_point)
    try:
        store("Pendulum-v1", eval_env=gymnasium.make("Endless-v0"))
        with pytest.raises(D4RLTaskError, match="Endless-v0, without a time limit"):
            minari_tasks.get_task(NAME)
    finally:
        del gymnasium.registry["Endless-v0"]


def test_a_converted_dataset_of_ours(tmp_path):
    generate("hopper-medium-v2", tmp_path / "hopper.hdf5", 300)
    name = convert(tmp_path / "hopper.hdf5")
    task = minari_tasks.get_task(name)
    assert (task.robot, task.max_episode_steps) == ("d4rl/hopper-medium-v2", 1000)
    assert task.ref_max_score == pytest.approx(3234.3)
    assert minari_tasks.load_dataset(name).synthetic


def fails(words):
    with pytest.raises(D4RLTaskError, match=words) as caught:
        minari_tasks.get_task(NAME)
        minari_tasks.load_dataset(NAME)
    assert "\n" not in str(caught.value)


def test_dict_observations_are_refused():
    space = Dict({"observation": Box(-9, 9, (2,), np.float64)})
    episode = EpisodeBuffer(
        observations={"observation": np.zeros((3, 2))},
        actions=np.zeros((2, 1), np.float32),
        rewards=np.zeros(2),
        terminations=np.zeros(2, dtype=bool),
        truncations=np.array([False, True]),
    )
    store("Pendulum-v1", episodes=[episode], observation_space=space)
    fails("has observations in Dict.*a flat Box is needed")


def test_discrete_actions_are_refused():
    store("CartPole-v1")
    fails("has actions in Discrete.*a flat Box is needed")


def test_a_dataset_without_an_environment_is_refused():
    environment = gymnasium.make("Pendulum-v1")
    spaces = {key: getattr(environment, key) for key in ("observation_space", "action_space")}
    store("Pendulum-v1", env=None, **spaces)
    fails("names no environment")


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Unknown-v0"])
def test_an_entry_point_that_only_the_file_names_is_not_called(tmp_path, env_id):
    spec = EnvSpec(env_id, entry_point="os:mkdir", kwargs={"path": str(tmp_path / "made")})
    store("Pendulum-v1")
    path = tmp_path / "minari" / NAME / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"env_spec": spec.to_json()}))
    fails("that no installed package registers")
    assert not (tmp_path / "made").exists()


def test_a_dataset_that_is_nowhere():
    fails(f"Minari dataset {NAME} cannot be used")


def test_equal_returns_give_no_scores():
    store("Pendulum-v1", ref_min_score=1.0, ref_max_score=1.0)
    fails("scores cannot be computed")


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_main_job_trains_on_it_and_resumes(capsys):
    store("Hopper-v5")
    options = ["--policy", "IQL", "--env", NAME, "--backend", "minari", "--logger", "none"]
    options += ["--hidden", "8", "8", "--batch_size", "16", "--eval_freq", "10"]
    assert main([*options, "--max_timesteps", "20"]) == 0
    assert main([*options, "--max_timesteps", "20"]) == 0
    assert "finished already" in capsys.readouterr().out
    rows = rows_of()
    assert [int(row["step"]) for row in rows] == [10, 20]
    low, high = (getattr(minari_tasks.get_task(NAME), f"ref_{one}_score") for one in ("min", "max"))
    for row in rows:
        score = (float(row["return_mean"]) - low) / (high - low)
        assert float(row["score_mean"]) == pytest.approx(score)
    assert one_file("results/*/*.csv").name.startswith("IQL_local-hopper-random-v0_seed1")


@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--env", "no/such-v0"], "Minari dataset no/such-v0 cannot be used"),
        (["--env", "not a name"], "Minari dataset not a name cannot be used"),
        (["--env", NAME, "--source", "d4rl"], "omit source d4rl"),
    ],
)
def test_bad_input_in_one_line(options, words):
    store("Pendulum-v1")
    code, errors = exit_code_and_errors(["--policy", "IQL", "--backend", "minari", *options])
    assert code == 2 and len(errors) == 1 and words in errors[0]
