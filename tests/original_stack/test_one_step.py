"""One environment step here and on gym, d4rl and MuJoCo 2.1.0, from states that policies visit."""

import mujoco
import numpy as np
import pytest

import d4rl_tasks
from d4rl_tasks import original
from d4rl_tasks.hdf5 import read_arrays
from d4rl_tasks.synthetic.generate import generate

# Of all behaviours of a robot.
TASKS = (
    *("halfcheetah-full-replay-v2", "hopper-full-replay-v2", "walker2d-full-replay-v2"),
    *("ant-full-replay-v2", "antmaze-umaze-diverse-v0", "antmaze-medium-diverse-v0"),
    "antmaze-large-diverse-v0",
)
TRANSITIONS = 20_000
SAMPLES = 2_000
BALLS = ("maze2d-umaze-v1", "maze2d-large-dense-v1", "maze2d-open-v0", "maze2d-eval-medium-v1")
TOLERANCE = 1e-9
# MuJoCo 2.1.0 takes a rotation by less than this for none, in radians, ...
TINY_ANGLE = 2e-8
# ... which is an error of up to 1e-8 in an acceleration's integral.
TOLERANCE_AT_TINY_ANGLES = 1e-7


def visited_states(name, path, model):
    """(n, nq), (n, nv) states and (n, A) actions, some of these outside [-1, 1]."""
    generate(name, path, TRANSITIONS)
    arrays = read_arrays(
        path, {"infos/qpos": (model.nq,), "infos/qvel": (model.nv,), "actions": (model.nu,)}
    )
    rng = np.random.default_rng(0)
    rows = rng.choice(TRANSITIONS, SAMPLES, replace=False)
    actions = arrays["actions"][rows].astype(np.float64)
    actions[::4] *= 2
    return arrays["infos/qpos"][rows], arrays["infos/qvel"][rows], actions


def goals_nearby(positions):
    """(n, 2) goals for antmaze, some reached and some not."""
    rng = np.random.default_rng(1)
    return positions + rng.uniform(-0.7, 0.7, positions.shape)


class Ours:
    def __init__(self, name):
        self.environment = d4rl_tasks.make(name).unwrapped
        self.data = self.environment.data

    def step(self, qpos, qvel, action, goal):
        mujoco.mj_resetData(self.environment.model, self.data)
        self.environment.set_state(qpos, qvel)
        self.has_contacts = self.data.ncon > 0
        self.data.qacc_warmstart[:] = 0
        if goal is not None:
            self.environment.target_goal = goal
        return self.environment.step(action)[:3]


class Theirs:
    def __init__(self, name):
        self.environment = original.make(name).unwrapped
        self.robot = self.environment.wrapped_env
        self.data = self.robot.sim.data

    def step(self, qpos, qvel, action, goal):
        self.robot.sim.reset()
        self.robot.set_state(qpos, qvel)
        self.data.qacc_warmstart[:] = 0
        if goal is not None:
            self.robot.target_goal = goal
        return self.environment.step(action)[:3]


@pytest.fixture(scope="module", params=TASKS)
def states(request, tmp_path_factory):
    """A task's name, and states, actions and goals to step from."""
    model = d4rl_tasks.make(request.param).unwrapped.model
    path = tmp_path_factory.mktemp("visited") / "visited.hdf5"
    qpos, qvel, actions = visited_states(request.param, path, model)
    is_maze = request.param.startswith("antmaze")
    goals = goals_nearby(qpos[:, :2]) if is_maze else [None] * SAMPLES
    return request.param, list(zip(qpos, qvel, actions, goals, strict=True))


def tolerance_of(model, qpos):
    """How far one step may be from the original's."""
    hinges = model.jnt_qposadr[model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE]
    is_tiny = (np.abs(qpos[hinges]) < TINY_ANGLE).any()
    return TOLERANCE_AT_TINY_ANGLES if is_tiny else TOLERANCE


def test_one_step_agrees(states):
    name, transitions = states
    ours, theirs = Ours(name), Theirs(name)
    contacts, dones = 0, 0
    for transition in transitions:
        tolerance = tolerance_of(ours.environment.model, transition[0])
        observation, reward, done = ours.step(*transition)
        contacts += ours.has_contacts
        dones += done
        expected_observation, expected_reward, expected_done = theirs.step(*transition)
        for got, expected in (
            (ours.data.qpos, theirs.data.qpos),
            (ours.data.qvel, theirs.data.qvel),
            (observation, expected_observation),
            (reward, expected_reward),
        ):
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
        assert done == expected_done
    assert contacts > SAMPLES / 5
    assert dones > 0 or name.startswith("halfcheetah")


def test_without_the_corrections_one_step_differs(states):
    name, transitions = states
    ours, theirs = Ours(name), Theirs(name)
    robot = ours.environment.robot
    model = robot.spec().compile()
    data = mujoco.MjData(model)
    errors = []
    for qpos, qvel, action, goal in transitions[:200]:
        theirs.step(qpos, qvel, action, goal)
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = qpos, qvel, 0
        data.ctrl[:] = np.clip(action, -1, 1) * robot.action_scale
        mujoco.mj_step(model, data, nstep=robot.frame_skip)
        errors.append(np.abs(data.qvel - theirs.data.qvel).max())
    assert np.median(errors) > 1e-3


def steps_of_a_ball(ours, theirs, rng, steps):
    """Largest difference of what both return, and how many steps touched a wall."""
    error, touches = 0.0, 0
    for _ in range(steps):
        action = rng.uniform(-1.5, 1.5, 2)
        touches += ours.data.ncon > 1  # the ground is always touched
        observation, reward, done = ours.step(action)[:3]
        expected_observation, expected_reward, expected_done = theirs.step(action)[:3]
        error = max(error, np.abs(observation - expected_observation).max())
        error = max(error, abs(reward - expected_reward))
        assert done == expected_done
    return error, touches


@pytest.mark.parametrize("name", BALLS)
def test_maze2d_agrees_for_many_steps(name):
    ours, theirs = d4rl_tasks.make(name).unwrapped, original.make(name).unwrapped
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(ours.target_goal, theirs._target)
    errors, touches = [], 0
    for _ in range(40):
        qpos = rng.choice(ours.robot.maze.free_cells()) + rng.uniform(-0.7, 0.3, 2)
        qvel = rng.normal(size=2) * 3
        for environment in (ours, theirs):
            environment.set_state(qpos, qvel)
        error, more = steps_of_a_ball(ours, theirs, rng, 50)
        errors.append(error)
        touches += more
    assert max(errors) < TOLERANCE and touches > 100


def test_maze2d_differs_without_the_inverse_weights_of_2_1():
    name = BALLS[0]
    ours, theirs = d4rl_tasks.make(name).unwrapped, original.make(name).unwrapped
    ours.model.body_invweight0[1, 0] = 1 / ours.model.body_mass[1]
    for environment in (ours, theirs):
        environment.set_state(np.array([3.25, 3.0]), np.array([2.0, 0.0]))
    assert steps_of_a_ball(ours, theirs, np.random.default_rng(0), 5)[0] > 1e-3
