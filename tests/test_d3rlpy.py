"""d3rlpy, a second implementation of offline RL, reads a generated file."""

import h5py
import numpy as np
import pytest

import d4rl_tasks
from d4rl_tasks.generate import generate

d3rlpy = pytest.importorskip("d3rlpy", exc_type=ImportError)


@pytest.fixture(scope="module", params=["hopper-medium-v2", "antmaze-umaze-v0"])
def generated(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("flat") / "flat.hdf5"
    generate(request.param, path, 1_500)
    return request.param, path


@pytest.fixture(scope="module")
def buffer(generated):
    """d3rlpy's dataset, from the arrays that its own `get_d4rl` takes from a flat file."""
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(generated[1]) as file:
        return d3rlpy.dataset.MDPDataset(**{key: file[key][()] for key in keys})


def all_transitions(buffer):
    return [
        buffer.transition_picker(episode, index)
        for episode in buffer.episodes
        for index in range(episode.transition_count)
    ]


def test_d3rlpy_makes_the_same_transitions(generated, buffer):
    ours = d4rl_tasks.load_dataset(*generated)
    theirs = all_transitions(buffer)
    terminals = np.array([one.terminal for one in theirs])
    # d3rlpy keeps the last row of a file if it is a terminal, D4RL's loader never does.
    theirs, terminals = theirs[: len(ours.rewards)], terminals[: len(ours.rewards)]
    np.testing.assert_array_equal(terminals, ours.terminals)
    for key, attribute in {"observations": "observation", "actions": "action"}.items():
        values = [getattr(one, attribute) for one in theirs]
        np.testing.assert_array_equal(values, getattr(ours, key), err_msg=key)
    np.testing.assert_array_equal([one.reward[0] for one in theirs], ours.rewards)
    # Behind a terminal d3rlpy puts zeros, D4RL's loader the next row; no method looks there.
    for one, expected, terminal in zip(theirs, ours.next_observations, terminals, strict=True):
        if not terminal:
            np.testing.assert_array_equal(one.next_observation, expected)


def test_d3rlpy_trains_on_it(buffer):
    algorithm = d3rlpy.algos.IQLConfig(batch_size=16).create(device="cpu")
    log = d3rlpy.logging.NoopAdapterFactory()
    ((_, metrics),) = algorithm.fit(
        buffer, n_steps=5, n_steps_per_epoch=5, show_progress=False, logger_adapter=log
    )
    assert np.isfinite(metrics["critic_loss"]) and np.isfinite(metrics["actor_loss"])
