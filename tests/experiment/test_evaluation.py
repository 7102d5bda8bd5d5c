"""Evaluations: the episodes of a seed, alone or together, and who has the cores."""

import numpy as np
import pytest
import torch

from experiment import evaluation
from experiment.evaluation import Normalizer, episode_seeds, evaluate
from experiment.options import hyperparameters_of, policy_class
from utils import RunSpec

HOPPER = "hopper-medium-v2"


@pytest.fixture
def normalizer():
    return Normalizer(np.zeros(11, np.float32), np.ones(11, np.float32))


def test_training_seeds_share_no_episode():
    seeds = [episode_seeds(seed, 100) for seed in range(50)]
    assert len(set(np.ravel(seeds))) == 50 * 100
    assert episode_seeds(7, 10) == episode_seeds(7, 100)[:10]


def test_an_evaluation_does_not_depend_on_how_many_episodes_run_at_once(normalizer, monkeypatch):
    torch.manual_seed(0)
    policy = policy_class("AWAC")(RunSpec(11, 3), hyperparameters_of("AWAC"))
    together = evaluate(policy, normalizer, HOPPER, 4, 0).returns
    seeds = episode_seeds(0, 4)
    alone = []
    for seed in seeds:
        monkeypatch.setattr(evaluation, "episode_seeds", lambda *_, seed=seed: [seed])
        alone.append(evaluate(policy, normalizer, HOPPER, 1, 0).returns[0])
    # The same episodes, but a matrix product of another size may round its last digit otherwise.
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert len(set(together)) == 4


def test_an_evaluation_shows_how_many_episodes_have_ended(normalizer):
    policy = policy_class("AWAC")(RunSpec(11, 3), hyperparameters_of("AWAC"))
    shown = []
    evaluate(policy, normalizer, HOPPER, 3, 0, show=shown.append)
    assert shown == sorted(shown) and shown[-1] == 3


class Falls:
    """Acts at once to fall over."""

    def __init__(self):
        self.states, self.threads = [], []

    def select_action(self, states):
        self.states.append(states)
        self.threads.append(torch.get_num_threads())
        return np.ones((len(states), 3), dtype=np.float32)


def test_a_policy_sees_normalised_states_in_an_evaluation(normalizer):
    mean, std = np.linspace(-3, 3, 11), np.linspace(0.5, 2, 11)
    other = Normalizer(mean.astype(np.float32), std.astype(np.float32))
    plain, normalised = Falls(), Falls()
    evaluate(plain, normalizer, HOPPER, 2, 1)
    evaluate(normalised, other, HOPPER, 2, 1)
    expected = (np.array(plain.states) - mean) / std
    np.testing.assert_allclose(normalised.states, expected, rtol=1e-5, atol=1e-5)


def test_an_evaluation_depends_on_its_seed(normalizer):
    first, again, other = (evaluate(Falls(), normalizer, HOPPER, 2, s).returns for s in (1, 1, 2))
    assert np.array_equal(first, again) and not set(first) & set(other)


def test_evaluation_leaves_the_cores_to_the_environments(normalizer):
    policy, before = Falls(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        returns = evaluate(policy, normalizer, HOPPER, 2, 1).returns
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert returns.shape == (2,)
    assert set(policy.threads) == {1}
