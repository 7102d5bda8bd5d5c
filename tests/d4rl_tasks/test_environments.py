"""The environments through gymnasium's API, single and in lockstep."""

import copy
import importlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import d4rl_tasks
from d4rl_tasks.mazes import ANT_LAYOUTS, POINT_LAYOUTS, AntMazeGrid, PointMazeGrid
from d4rl_tasks.robots import ROBOTS

ROOT = Path(__file__).parents[2]

ONE_OF_EACH = [
    "halfcheetah-medium-v2",
    "hopper-random-v0",
    "walker2d-medium-replay-v1",
    "ant-medium-v2",
    "antmaze-umaze-v0",
    "antmaze-medium-diverse-v2",
    "antmaze-large-play-v1",
    "maze2d-umaze-v1",
    "maze2d-eval-large-dense-v1",
]
TINY = 1e-9  # between a bound and a state beside it
SIZES = {
    **{"halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6)},
    **{"ant": (111, 8), "antmaze": (29, 8), "maze2d": (4, 2)},
}


def test_there_are_106_tasks_all_registered():
    names = d4rl_tasks.task_names()
    assert len(names) == 106
    assert all(f"d4rl/{name}" in gymnasium.registry for name in names)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_check_env_and_sizes(name):
    environment = gymnasium.make(f"d4rl/{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment.unwrapped, skip_render_check=True)
    task = d4rl_tasks.get_task(name)
    observation, action = SIZES[task.robot]
    assert environment.observation_space.shape == (observation,)
    assert environment.action_space.shape == (action,)
    assert environment.spec.max_episode_steps == task.max_episode_steps


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_all_that_a_vector_environment_returns_is_in_its_spaces(name):
    environment = d4rl_tasks.make_vec(name, 2)
    observations, _ = environment.reset(seed=[0, 1])
    environment.action_space.seed(0)
    for _ in range(20):
        assert observations in environment.observation_space
        assert all(one in environment.single_observation_space for one in observations)
        observations, rewards, terminated, truncated, _ = environment.step(
            environment.action_space.sample()
        )
        assert rewards.shape == (2,) and rewards.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
    environment.close()


def roll(environment, seed, steps=50):
    observations = [environment.reset(seed=seed)[0]]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        action = rng.uniform(-1, 1, environment.action_space.shape)
        observations.append(environment.step(action)[0])
    return np.array(observations)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_seed_determines_the_episode(name):
    first, second = d4rl_tasks.make(name), d4rl_tasks.make(f"d4rl/{name}")
    np.testing.assert_array_equal(roll(first, 3), roll(second, 3))
    assert not np.array_equal(roll(first, 3), roll(second, 4))


@pytest.mark.parametrize("name", ["walker2d-expert-v2", "antmaze-umaze-v0"])
def test_actions_are_clipped(name):
    inside, outside = d4rl_tasks.make(name), d4rl_tasks.make(name)
    inside.reset(seed=0), outside.reset(seed=0)
    action = np.linspace(-3, 3, inside.action_space.shape[0])
    expected, reward, *_ = inside.step(np.clip(action, -1, 1))
    observation, same_reward, *_ = outside.step(action)
    np.testing.assert_array_equal(observation, expected)
    assert same_reward == reward


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("halfcheetah-medium-v2", "HalfCheetah-v4"),
        ("hopper-medium-v2", "Hopper-v4"),
        ("walker2d-medium-v2", "Walker2d-v4"),
        ("ant-medium-v2", "Ant-v4"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_rewards_and_ends_are_gymnasiums_v4(name, model):
    """With gymnasium's own environment moving on our model, everything else must be the same."""
    ours, theirs = d4rl_tasks.make(name), gymnasium.make(model)
    theirs.unwrapped.model.body_mass[:] = ours.unwrapped.model.body_mass
    theirs.unwrapped.model.body_inertia[:] = ours.unwrapped.model.body_inertia
    theirs.unwrapped.model.body_ipos[:] = ours.unwrapped.model.body_ipos
    theirs.unwrapped.model.body_iquat[:] = ours.unwrapped.model.body_iquat
    theirs.unwrapped.model.geom_margin[:] = ours.unwrapped.model.geom_margin
    import mujoco

    mujoco.mj_setConst(theirs.unwrapped.model, theirs.unwrapped.data)
    rng = np.random.default_rng(1)
    ends = 0
    for seed in range(5):
        observation, _ = ours.reset(seed=seed)
        expected, _ = theirs.reset(seed=seed)
        np.testing.assert_allclose(observation[: expected.size], expected, atol=1e-12)
        for _ in range(60):
            action = rng.uniform(-1, 1, ours.action_space.shape)
            observation, reward, terminated, _, _ = ours.step(action)
            expected, expected_reward, expected_end, _, _ = theirs.step(action)
            np.testing.assert_allclose(observation[: expected.size], expected, atol=1e-8)
            assert not observation[expected.size :].any()
            assert reward == pytest.approx(expected_reward, abs=1e-8)
            assert terminated == expected_end
            ends += terminated
            if terminated:
                break
    assert ends > 0 or name in ("halfcheetah-medium-v2", "ant-medium-v2")


@pytest.mark.parametrize("name", ["hopper-medium-v2", "antmaze-medium-play-v2", "ant-expert-v1"])
def test_lockstep_is_bit_for_bit_the_single_environment(name):
    many = d4rl_tasks.make_vec(name, 3)
    seeds = [11, 5, 8]
    observations, _ = many.reset(seed=seeds)
    singles = [d4rl_tasks.make(name) for _ in seeds]
    expected = [one.reset(seed=seed)[0] for one, seed in zip(singles, seeds, strict=True)]
    np.testing.assert_array_equal(observations, expected)
    running = np.ones(3, dtype=bool)
    rng = np.random.default_rng(0)
    for _ in range(80):
        actions = rng.uniform(-1, 1, many.action_space.shape)
        observations, rewards, terminated, truncated, _ = many.step(actions)
        for i in np.flatnonzero(running):
            observation, reward, ended, _, _ = singles[i].step(actions[i])
            np.testing.assert_array_equal(observations[i], observation)
            assert rewards[i] == reward
            assert terminated[i] == ended
        for finished in (rewards, terminated, truncated):  # they say so once
            assert not finished[~running].any()
        running &= ~(terminated | truncated)
        np.testing.assert_array_equal(many.active, running)
    many.close()


def test_goals_in_lockstep_are_the_single_environments():
    many = d4rl_tasks.make_vec("antmaze-umaze-v2", 3)
    singles = [d4rl_tasks.make("antmaze-umaze-v2").unwrapped for _ in range(3)]
    many.reset(seed=[11, 5, 8])
    for single, seed in zip(singles, [11, 5, 8], strict=True):
        single.reset(seed=seed)
    np.testing.assert_array_equal(many.target_goals, [one.target_goal for one in singles])
    many.reset(options={"reset_mask": np.array([False, True, False])})
    singles[1].reset()
    np.testing.assert_array_equal(many.target_goals, [one.target_goal for one in singles])


def test_finished_episodes_stand_still_and_masked_resets_restart_only_those():
    many = d4rl_tasks.make_vec("hopper-medium-v2", 2)
    many.reset(seed=0)
    while not many.active.any() or many.active.all():
        many.step(np.stack([np.ones(3), -np.ones(3)]))
    done = ~many.active
    before = many.observations()
    after = many.step(np.zeros((2, 3)))[0]
    np.testing.assert_array_equal(after[done], before[done])
    assert not np.array_equal(after[~done], before[~done])
    many.reset(options={"reset_mask": done})
    assert many.active.all()
    np.testing.assert_array_equal(many.observations()[~done], after[~done])


@pytest.mark.parametrize(
    ("name", "coordinate", "inside", "outside"),
    [
        *(("ant", 2, 0.2, 0.2 - TINY), ("ant", 2, 1.0, 1.0 + TINY)),
        *(("ant", 0, 1e6, np.inf), ("ant", -1, 1e6, np.nan)),
        *(("walker2d", 1, 0.8 + TINY, 0.8), ("walker2d", 1, 2.0 - TINY, 2.0)),
        *(("walker2d", 2, 1.0 - TINY, 1.0), ("walker2d", 2, -1.0 + TINY, -1.0)),
        ("hopper", 1, 0.7 + TINY, 0.7),
        *(("hopper", 2, 0.2 - TINY, 0.2), ("hopper", 2, -0.2 + TINY, -0.2)),
        *(("hopper", 3, 100 - TINY, 100), ("hopper", -1, -100 + TINY, -100)),
    ],
)
def test_an_episode_ends_where_a_coordinate_leaves_its_bounds(name, coordinate, inside, outside):
    robot = ROBOTS[name]()
    model = robot.model()
    states = np.tile(np.concatenate([model.qpos0, np.zeros(model.nv)]), (2, 1))
    states[:, coordinate] = inside, outside
    qpos, qvel = states[:, : model.nq], states[:, model.nq :]
    assert robot.terminated(qpos, qvel, None).tolist() == [False, True]


def test_time_limits():
    single, many = d4rl_tasks.make("halfcheetah-random-v2"), None
    single.reset(seed=0)
    for _ in range(999):
        assert not single.step(np.zeros(6))[3]
    assert single.step(np.zeros(6))[3]
    many = d4rl_tasks.make_vec("antmaze-umaze-v0", 1)
    many.reset(seed=0)
    steps = 0
    while many.active.any():
        _, _, terminated, truncated, _ = many.step(np.zeros((1, 8)))
        steps += 1
    assert steps == 700 and truncated[0] and not terminated[0]


def test_goals_are_drawn_once_or_at_every_reset():
    fixed = d4rl_tasks.make("antmaze-umaze-v0").unwrapped
    goal = fixed.target_goal.copy()
    fixed.reset(seed=1)
    np.testing.assert_array_equal(fixed.target_goal, goal)
    other = d4rl_tasks.make("antmaze-umaze-v0", goal_seed=1).unwrapped
    assert not np.array_equal(other.target_goal, goal)
    fresh = d4rl_tasks.make("antmaze-umaze-v2").unwrapped
    fresh.reset(seed=1)
    goal = fresh.target_goal
    fresh.reset(seed=2)
    assert not np.array_equal(fresh.target_goal, goal)


@pytest.mark.parametrize("name", ["umaze", "medium", "large"])
def test_goals_lie_in_their_cell(name):
    maze = AntMazeGrid(ANT_LAYOUTS[name])
    rng = np.random.default_rng(0)
    goals = np.array([maze.sample_goal(rng) for _ in range(200)])
    offset = goals - maze.cell_centers(maze.cell_of("G"))
    assert (offset >= 0).all() and (offset <= 1.5).all() and (offset.max(axis=0) > 1).all()
    np.testing.assert_array_equal(maze.cells_at(goals), np.tile(maze.cell_of("G"), (200, 1)))


def test_reaching_the_goal_ends_the_episode_with_reward_one():
    environment = d4rl_tasks.make("antmaze-umaze-v0").unwrapped
    environment.reset(seed=0)
    assert environment.step(np.zeros(8))[1:3] == (0.0, False)
    qpos = environment.init_qpos.copy()
    qpos[:2] = environment.target_goal
    environment.set_state(qpos, environment.init_qvel)
    assert environment.step(np.zeros(8))[1:3] == (1.0, True)


def test_walls_stop_the_ant():
    environment = d4rl_tasks.make("antmaze-umaze-v0").unwrapped
    environment.reset(seed=0)
    qpos, qvel = environment.init_qpos.copy(), environment.init_qvel.copy()
    qvel[0] = -30.0
    environment.set_state(qpos, qvel)
    for _ in range(60):
        environment.step(np.zeros(8))
    assert environment.data.qpos[0] > -2.5


def test_shortest_paths():
    maze = AntMazeGrid(ANT_LAYOUTS["umaze"])
    distances = maze.distances_to(maze.cell_of("G"))
    assert distances[tuple(maze.cell_of("R"))] == 6
    assert np.isinf(distances[0, 0])


# maze2d


@pytest.mark.parametrize("name", POINT_LAYOUTS)
def test_balls_start_in_free_cells_at_the_goals_too(name):
    version = "v0" if name == "open" else "v1"
    episodes = d4rl_tasks.make_vec(f"maze2d-{name}-{version}", 300)
    episodes.reset(seed=0)
    maze = PointMazeGrid(POINT_LAYOUTS[name])
    cells = maze.cells_at(episodes.qpos)
    assert {tuple(cell) for cell in cells} == {tuple(cell) for cell in maze.free_cells()}
    assert np.abs(episodes.qpos - cells).max() <= 0.1
    assert (np.abs(episodes.qvel) < 1).all() and episodes.qvel.std() > 0.05
    assert (episodes.target_goals == maze.cell_of("G")).all()
    episodes.close()


@pytest.mark.parametrize(("kind", "reward"), [("", 1.0), ("-dense", np.exp(-0.3))])
def test_at_the_goal_a_ball_is_rewarded_and_its_episode_continues(kind, reward):
    environment = d4rl_tasks.make(f"maze2d-medium{kind}-v1")
    environment.reset(seed=0)
    ball = environment.unwrapped
    ball.set_state(ball.target_goal - [0.3, 0], np.zeros(2))
    _, got, terminated, _, _ = environment.step(np.zeros(2))
    assert got == pytest.approx(reward) and not terminated
    ball.set_state(ball.target_goal - [0.51, 0], np.zeros(2))
    assert environment.step(np.zeros(2))[1] == pytest.approx(0 if kind == "" else np.exp(-0.51))
    for _ in range(598):
        *_, terminated, truncated, _ = environment.step(np.zeros(2))
    assert truncated and not terminated


def test_walls_stop_the_ball_and_its_speed_is_limited():
    environment = d4rl_tasks.make("maze2d-umaze-v1").unwrapped
    environment.reset(seed=0)
    environment.set_state(np.array([3.0, 2.0]), np.array([0.0, 50.0]))
    observation = environment.step(np.array([0.0, 1.0]))[0]
    assert observation[1] == pytest.approx(2 + 0.05, abs=0.01)  # 5 m/s for 0.01 s
    for _ in range(200):
        observation = environment.step(np.array([0.0, 1.0]))[0]
    # The wall of cell (3, 4) begins at 3.3, and the ball's radius is 0.1.
    assert observation[1] == pytest.approx(3.2, abs=0.03)


@pytest.mark.parametrize("name", ["walker2d-expert-v2", "antmaze-large-play-v0", "maze2d-large-v1"])
def test_rendering_headless(renderer, name):
    environment = d4rl_tasks.make(name, render_mode="rgb_array", width=160, height=120)
    environment.reset(seed=0)
    picture = environment.render()
    assert picture.shape == (120, 160, 3)
    assert picture.std() > 5
    environment.close()


def test_where_nothing_draws_one_line_says_so_and_nothing_else_changes():
    program = """
import os
import d4rl_tasks
try:
    d4rl_tasks.make("walker2d-expert-v2", render_mode="rgb_array")
except d4rl_tasks.D4RLTaskError as error:
    print(error, "|", os.environ.get("MUJOCO_GL"))
"""
    environment = {k: v for k, v in os.environ.items() if "DISPLAY" not in k and k != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment | {"PYOPENGL_PLATFORM": "none"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("cannot draw: ") and done.stdout.endswith("| None\n"), done


def test_normalised_scores():
    np.testing.assert_allclose(
        d4rl_tasks.normalized_score("walker2d-expert-v2", np.array([1.629008, 4592.3])), [0, 1]
    )
    assert d4rl_tasks.normalized_score("antmaze-umaze-v0", 0.5) == 0.5


def test_unknown_task_names_the_nearest():
    with pytest.raises(d4rl_tasks.D4RLTaskError, match="walker2d-expert-v2"):
        d4rl_tasks.make("walker-expert-v2")
    with pytest.raises(d4rl_tasks.D4RLTaskError, match="num_envs"):
        d4rl_tasks.make_vec("walker2d-expert-v2", 0)


def test_wrong_action_shape_is_one_clear_line():
    environment = d4rl_tasks.make("hopper-medium-v2")
    environment.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(6,\).*\(3,\)"):
        environment.step(np.zeros(6))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (3, 6)])
def test_actions_of_another_shape_are_refused_in_lockstep(shape):
    many = d4rl_tasks.make_vec("hopper-medium-v2", 3)
    many.reset(seed=0)
    with pytest.raises(ValueError, match=r"have the shape \(.*\), not \(3, 3\)"):
        many.step(np.zeros(shape))


def test_a_spec_can_be_written_down_and_read_back():
    for name in ("walker2d-expert-v2", "antmaze-umaze-v0"):
        text = d4rl_tasks.make(name).spec.to_json()
        again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(text))
        assert again.spec.id == f"d4rl/{name}"
        assert again.reset(seed=0)[0].shape == again.observation_space.shape


def test_a_reload_warns_of_nothing(recwarn):
    importlib.reload(d4rl_tasks)
    assert not recwarn.list


def test_environments_have_d4rls_methods(hopper):
    environment = d4rl_tasks.make("hopper-medium-v2").unwrapped
    expected = d4rl_tasks.load_dataset("hopper-medium-v2", hopper)
    dataset = environment.get_dataset(str(hopper))
    assert np.array_equal(dataset["observations"], expected["observations"])
    assert environment.get_normalized_score(3234.3) == pytest.approx(1.0)


def test_a_step_before_the_first_reset_says_so():
    for environment, shape in (
        (d4rl_tasks.make("hopper-medium-v2"), 3),
        (d4rl_tasks.make_vec("hopper-medium-v2", 2), (2, 3)),
    ):
        with pytest.raises(gymnasium.error.ResetNeeded):
            environment.step(np.zeros(shape))


def test_the_first_reset_must_be_of_all_episodes():
    many = d4rl_tasks.make_vec("hopper-medium-v2", 2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        many.reset(options={"reset_mask": np.array([True, False])})
    many.reset(options={"reset_mask": np.array([True, True])})
    many.reset(options={"reset_mask": np.array([True, False])})


def test_an_action_that_is_not_a_number_is_refused_and_leaves_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, many = d4rl_tasks.make("hopper-medium-v2"), d4rl_tasks.make_vec("hopper-medium-v2", 2)
    for environment, shape in ((one, 3), (many, (2, 3))):
        environment.reset(seed=0)
        with pytest.raises(ValueError, match="an action is NaN"):
            environment.step(np.full(shape, np.nan))
    assert not list(tmp_path.iterdir())


def test_the_statistics_of_a_wrapper_are_those_of_the_episodes():
    many = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        d4rl_tasks.make_vec("hopper-medium-v2", 3)
    )
    many.reset(seed=0)
    rng, returns = np.random.default_rng(0), np.zeros(3)
    while many.env.active.any():
        returns += many.step(rng.uniform(-1, 1, (3, 3)))[1]
    assert sorted(many.return_queue) == pytest.approx(sorted(returns))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda many: pickle.loads(pickle.dumps(many))])
def test_a_copy_in_mid_episode_goes_the_same_way(how):
    many = d4rl_tasks.make_vec("walker2d-medium-v2", 3, threads=2)
    many.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 3, 6))
    for action in actions[:10]:
        many.step(action)
    again = how(many)
    for action in actions[10:]:
        for first, second in zip(many.step(action)[:4], again.step(action)[:4], strict=True):
            assert np.array_equal(first, second)
    many.close()
    again.close()


def _steps_in_a_child(many, action, answers):
    answers.put(many.step(action)[0])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_steps_on_as_its_parent(method):
    many = d4rl_tasks.make_vec("hopper-medium-v2", 3, threads=2)
    many.reset(seed=0)
    action = np.full((3, 3), 0.1)
    many.step(action)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=_steps_in_a_child, args=(many, action, answers))
    child.start()
    in_child = answers.get(timeout=60)
    child.join(timeout=60)
    assert np.array_equal(many.step(action)[0], in_child)
    many.close()
