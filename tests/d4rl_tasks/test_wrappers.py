"""Gymnasium's vector wrappers give with ours what they give with gymnasium's own vector."""

import copy

import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import vector

import d4rl_tasks

NAME, COUNT, STEPS = "hopper-medium-v2", 3, 150
SMALL = {"render_mode": "rgb_array", "width": 64, "height": 48}

WRAPPERS = {
    "none": lambda env: env,
    "RecordEpisodeStatistics": vector.RecordEpisodeStatistics,
    "NormalizeObservation": vector.NormalizeObservation,
    "NormalizeReward": vector.NormalizeReward,
    "ClipReward": lambda env: vector.ClipReward(env, -1.0, 1.0),
    "ClipAction": vector.ClipAction,
    "RescaleAction": lambda env: vector.RescaleAction(env, -2.0, 2.0),
    "FlattenObservation": vector.FlattenObservation,
    "ReshapeObservation": lambda env: vector.ReshapeObservation(env, (11, 1)),
    "DtypeObservation": lambda env: vector.DtypeObservation(env, np.float32),
    "TransformObservation": lambda env: vector.TransformObservation(env, lambda obs: obs + 1),
    "TransformReward": lambda env: vector.TransformReward(env, lambda reward: 2 * reward),
    "TransformAction": lambda env: vector.TransformAction(env, lambda action: action / 2),
    "DictInfoToList": lambda env: vector.DictInfoToList(vector.RecordEpisodeStatistics(env)),
    "VectorizeTransformObservation": lambda env: vector.VectorizeTransformObservation(
        env, wrappers.TransformObservation, func=lambda obs: obs * 3, observation_space=None
    ),
    "VectorizeTransformReward": lambda env: vector.VectorizeTransformReward(
        env, wrappers.TransformReward, func=lambda reward: reward + 1
    ),
    "VectorizeTransformAction": lambda env: vector.VectorizeTransformAction(
        env, wrappers.TransformAction, func=lambda action: -action, action_space=None
    ),
}

# NormalizeObservation accepts no partial resets, DictInfoToList only vectors that reset themselves.
REFUSED = ("NormalizeObservation", "DictInfoToList")


class Unchanged(VectorWrapper):
    """Keeps SyncVectorEnv from taking the mask out of a wrapper's own options."""

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed, options=dict(options or {}))


def gymnasiums(**kwargs):
    """The same environments in gymnasium's own vector, which resets none by itself."""
    functions = [lambda: d4rl_tasks.make(NAME, **kwargs)] * COUNT
    return Unchanged(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.DISABLED))


def trajectory(wrap, env):
    """All that reset and step return over several episodes, or the error."""
    returned = []
    try:
        for one in steps_of(wrap(env)):
            returned.append(copy.deepcopy(one))
    except ValueError as error:  # some wrappers want vectors that reset by themselves
        returned.append(str(error))
    env.close()
    return returned


def steps_of(env):
    yield env.reset(seed=5)
    actions = np.random.default_rng(0)
    for _ in range(STEPS):
        step = env.step(actions.uniform(-1.5, 1.5, (COUNT, 3)).astype(np.float32))
        yield step
        ended = step[2] | step[3]
        if ended.any():
            yield env.reset(options={"reset_mask": ended})


def without_times(value):
    """Seconds of episodes differ by nature."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("t", "_t")}
    if isinstance(value, list | tuple):
        return [without_times(one) for one in value]
    return value


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_gives_what_it_gives_with_gymnasiums_vector(name):
    ours = trajectory(WRAPPERS[name], d4rl_tasks.make_vec(NAME, COUNT))
    theirs = trajectory(WRAPPERS[name], gymnasiums())
    assert len(ours) == len(theirs)
    if name not in REFUSED:
        assert len(ours) > STEPS + COUNT, "some episodes have ended"
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_equal(without_times(mine), without_times(other))


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False, False], TypeError),
        (np.ones(COUNT), TypeError),
        (np.ones(COUNT + 1, bool), ValueError),
        (np.zeros(COUNT, bool), ValueError),
    ],
)
def test_masks_are_checked_as_gymnasiums_are(mask, error):
    for env in (d4rl_tasks.make_vec(NAME, COUNT), gymnasiums()):
        env.reset(seed=0)
        with pytest.raises(error, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
        env.close()


# Pictures


def test_pictures_of_a_vector_are_those_of_single_environments(renderer):
    ours, theirs = d4rl_tasks.make_vec(NAME, COUNT, **SMALL), gymnasiums(**SMALL)
    for env in (ours, theirs):
        env.reset(seed=0)
        for _ in range(5):
            env.step(np.full((COUNT, 3), 0.5, np.float32))
    for mine, other in zip(ours.render(), theirs.render(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert ours.metadata["render_fps"] == theirs.metadata["render_fps"]
    ours.close()
    theirs.close()
    assert d4rl_tasks.make_vec(NAME, 1).render() is None
    with pytest.raises(d4rl_tasks.D4RLTaskError, match="choose rgb_array"):
        d4rl_tasks.make_vec(NAME, 1, render_mode="human")


def test_pictures_of_several_environments_do_not_disturb_each_other(renderer):
    names = ["walker2d-expert-v2", NAME, "antmaze-umaze-v0"]
    expected = {}
    for name in names:
        with d4rl_tasks.make(name, **SMALL) as env:
            env.reset(seed=0)
            expected[name] = env.render().copy()
    several = {name: d4rl_tasks.make(name, **SMALL) for name in names}

    def assert_right(name):
        np.testing.assert_array_equal(several[name].render(), expected[name], err_msg=name)

    for env in several.values():
        env.reset(seed=0)
    for name in [*names, *reversed(names)]:
        assert_right(name)
    several[NAME].close()
    assert_right(names[0])
    assert_right(names[2])
    several[NAME].reset(seed=0)
    for name in names:
        assert_right(name)
    for env in several.values():
        env.close()
