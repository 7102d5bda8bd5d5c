"""One environment step here against one on gym 0.23, d4rl 1.1 and MuJoCo 2.1.0 (`reference/`)."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

import d4rl_tasks
from d4rl_tasks import physics
from d4rl_tasks.robots import ROBOTS

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("*.npz"))
TOLERANCE = 1e-9


def step_from(environment, qpos, qvel, action):
    environment = environment.unwrapped
    mujoco.mj_resetData(environment.model, environment.data)
    environment.set_state(qpos, qvel)
    environment.data.qacc_warmstart[:] = 0
    return environment.step(action)


def test_all_nine_recordings_are_here():
    assert len(REFERENCE) == 9


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_one_step_agrees_with_the_original_stack(path):
    recorded = np.load(path)
    environment = d4rl_tasks.make(path.stem)
    if "target_goal" in recorded:
        environment.unwrapped.target_goal = recorded["target_goal"]
    data = environment.unwrapped.data
    for i, (qpos, qvel) in enumerate(zip(recorded["qpos"], recorded["qvel"], strict=True)):
        observation, reward, terminated, _, _ = step_from(
            environment, qpos, qvel, recorded["action"][i]
        )
        np.testing.assert_allclose(data.qpos, recorded["next_qpos"][i], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(data.qvel, recorded["next_qvel"][i], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(observation, recorded["next_obs"][i], rtol=0, atol=TOLERANCE)
        assert abs(reward - recorded["reward"][i]) < TOLERANCE
        assert terminated == recorded["done"][i]


@pytest.mark.parametrize("name", ["walker2d", "hopper", "halfcheetah"])
def test_without_the_corrections_the_robots_move_differently(name):
    path = next(path for path in REFERENCE if path.stem.startswith(name))
    recorded = np.load(path)
    robot = ROBOTS[name]()
    model = robot.spec().compile()
    data = mujoco.MjData(model)
    errors = []
    for i in range(100):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = recorded["qpos"][i], recorded["qvel"][i]
        data.ctrl[:] = np.clip(recorded["action"][i], -1, 1)
        mujoco.mj_step(model, data, nstep=robot.frame_skip)
        errors.append(np.abs(data.qvel - recorded["next_qvel"][i]).max())
    assert np.median(errors) > 1e-3


def test_capsules_weigh_as_cylinders_longer_by_half_a_radius():
    spec = mujoco.MjSpec.from_string(
        """<mujoco><worldbody>
             <body><freejoint/><geom type="capsule" size=".1 .3" density="1000"/></body>
             <body><freejoint/>
               <geom type="capsule" size=".1" fromto="0 0 0 0 .6 0" density="1000"/></body>
             <body><freejoint/><geom type="sphere" size=".1" density="1000"/></body>
           </worldbody></mujoco>"""
    )
    model = physics.compile_as_mujoco_2_1(spec)
    radius, length, density = 0.1, 0.7, 1000
    mass = density * np.pi * radius**2 * length
    along, across = mass * radius**2 / 2, mass * (3 * radius**2 + length**2) / 12
    np.testing.assert_allclose(model.body_mass[1:3], mass)
    np.testing.assert_allclose(np.sort(model.body_inertia[1]), np.sort([along, across, across]))
    np.testing.assert_allclose(np.sort(model.body_inertia[2]), np.sort([along, across, across]))
    np.testing.assert_allclose(model.body_ipos[2], [0, 0.3, 0], atol=1e-12)
    np.testing.assert_allclose(model.body_mass[3], density * 4 / 3 * np.pi * radius**3)
    assert (model.geom_type[:2] == mujoco.mjtGeom.mjGEOM_CAPSULE).all()


def test_the_inverse_weight_of_a_sliding_body_is_the_mean_of_three_axes():
    spec = mujoco.MjSpec.from_string(
        """<mujoco><worldbody>
             <body><joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>
               <geom type="sphere" size=".1" density="1000"/></body>
             <body><joint type="slide" axis="1 0 0"/><joint type="hinge"/>
               <geom type="sphere" size=".1" density="1000"/></body>
           </worldbody></mujoco>"""
    )
    ball, hinged = physics.compile_as_mujoco_2_1(spec).body_invweight0[1:]
    mass = 1000 * 4 / 3 * np.pi * 0.1**3
    np.testing.assert_allclose(ball, [2 / (3 * mass), 0])
    np.testing.assert_array_equal(hinged, spec.compile().body_invweight0[2])


def test_margins_are_those_of_2_1():
    spec = mujoco.MjSpec.from_string(
        """<mujoco><worldbody><geom type="plane" size="1 1 1" margin=".1"/>
             <body pos="0 0 .19"><freejoint/><geom type="sphere" size=".1" margin=".1"/></body>
           </worldbody></mujoco>"""
    )
    model = physics.compile_as_mujoco_2_1(spec)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.contact.includemargin, [0.1])


def test_models_whose_margins_cannot_be_reproduced_are_refused(monkeypatch):
    monkeypatch.setattr(physics, "mujoco_version", lambda: (3, 5, 0))  # since when margins add
    spec = mujoco.MjSpec.from_string(
        '<mujoco><worldbody><geom type="plane" size="1 1 1" margin=".1"/></worldbody>'
        "</mujoco>".replace("</worldbody>", '<geom type="plane" size="1 1 1"/></worldbody>')
    )
    with pytest.raises(d4rl_tasks.D4RLTaskError, match="margin"):
        physics.compile_as_mujoco_2_1(spec)


@pytest.mark.parametrize(
    ("version", "robots"),
    [
        ((3, 2, 6), None),
        ((3, 2, 5), "older"),
        ((3, 2, 7), "antmaze"),
        ((3, 10, 0), "antmaze"),
        ((3, 11, 0), "halfcheetah"),
        ((3, 17, 0), "antmaze"),
        ((4, 0, 0), "ant and antmaze"),
    ],
)
def test_other_mujoco_versions_are_named_with_their_robots(version, robots):
    message = physics.verification_warning(version)
    assert message is None if robots is None else robots in message


def test_the_warning_comes_once(monkeypatch):
    monkeypatch.setattr(physics, "mujoco_version", lambda: (4, 0, 0))
    physics.warn_if_unverified.cache_clear()
    with pytest.warns(UserWarning, match=r"MuJoCo 4\.0\.0"):
        physics.warn_if_unverified()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        physics.warn_if_unverified()
    physics.warn_if_unverified.cache_clear()
