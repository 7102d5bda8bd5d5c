"""Data without variation: everything stays finite."""

import numpy as np
import pytest
from helpers import MIXTURES, MODULES, VARIANTS, arrays, is_finite, make_buffer, make_policy, train

from utils import ReplayBuffer


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("weight_type", ["", "clamp", "raw"])
def test_fifty_steps_on_constant_rewards_with_one_component_stay_finite(name, options, weight_type):
    if name in (*MIXTURES, "mixAWAC"):
        options = options | {"latent_disc_dim": 1}
    policy = make_policy(name, weight_type=weight_type, **options)
    buffer = make_buffer(rewards=np.ones(256))
    for _ in range(50):
        losses = policy.train(buffer, 16)
        assert all(loss.isfinite() for loss in losses.values())
    assert is_finite(policy)


@pytest.mark.parametrize("name", MODULES)
def test_identical_transitions_stay_finite(name):
    # All advantages of a batch are equal, or as good as.
    policy = make_policy(name)
    columns = [np.repeat(column[:1], 256, axis=0) for column in arrays()]
    buffer = ReplayBuffer(*columns)
    train(policy, 20, buffer)
    assert is_finite(policy)
