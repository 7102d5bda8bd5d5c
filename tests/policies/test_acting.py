"""Acting, and what DMPO shows of its components."""

import formulas
import numpy as np
import pytest
from helpers import (
    ACTIONS,
    COMPONENTS,
    MIXTURES,
    MODULES,
    STATES,
    TWIN_VALUE,
    arrays,
    best_component,
    decoded,
    expected_advantage,
    make_scattered_policy,
    one_hot,
)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("count", [1, 9])
def test_select_action_returns_float32_arrays(name, count):
    policy = make_scattered_policy(name)
    states = np.random.default_rng(0).normal(size=(count, STATES))
    actions = policy.select_action(states)
    assert type(actions) is np.ndarray
    assert actions.dtype == np.float32
    assert actions.shape == (count, ACTIONS)
    # One at a time or all together, an action is the same; and it is drawn from nothing.
    alone = np.concatenate([policy.select_action(state[None]) for state in states])
    np.testing.assert_allclose(alone, actions, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC"])
def test_actions_stay_within_one(name):
    policy = make_scattered_policy(name, max_action=1.0)
    states = 100 * np.random.default_rng(0).normal(size=(500, STATES))
    actions = policy.select_action(states)
    assert np.abs(actions).max() <= 1
    assert np.abs(actions).max() > 0.99, "never near the bound: this would show nothing"


def expected_action(policy, state):
    name = type(policy).__name__
    if name in MIXTURES:
        return best_component(policy, policy.actor, state)[0]
    if name == "mixAWAC":
        component = formulas.mlp(policy.actor.gate, state).argmax(axis=-1)
        return formulas.mixture_component(policy.actor, state, one_hot(component))[0]
    if name == "LP_AWAC":
        return decoded(policy, policy.actor, state)
    return formulas.gaussian(policy.actor, state)[0]


@pytest.mark.parametrize("name", MODULES)
def test_acting_is_by_the_online_actor(name):
    policy = make_scattered_policy(name)
    states = np.random.default_rng(0).normal(size=(100, STATES)).astype(np.float32)
    expected = expected_action(policy, states.astype(np.float64))
    np.testing.assert_allclose(policy.select_action(states), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_diagnostics_agree_with_one_pair_at_a_time(name):
    policy = make_scattered_policy(name)
    states, actions = (array[:30] for array in arrays()[:2])
    component, advantage = policy.assign_components(states, actions)
    values = policy.values_of_components(states)
    assert component.shape == advantage.shape == (30,)
    assert component.dtype == np.int64
    assert values.shape == (30, COMPONENTS)
    assert len(set(component)) > 1, "one component takes everything: this would show nothing"

    for i, (state, action) in enumerate(zip(states, actions, strict=True)):
        state, action = state[None], action[None]
        assert component[i] == formulas.mlp(policy.posterior, state, action).argmax()
        expected = expected_advantage(policy, state, action).item()
        assert advantage[i] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        for k in range(COMPONENTS):
            forced = formulas.latent_action(policy.actor, state, one_hot(k)[None])
            chosen = policy.select_action_of(states[i : i + 1], k)
            np.testing.assert_allclose(chosen, forced, rtol=1e-4, atol=1e-5)
            value = TWIN_VALUE[name](formulas.twins(policy.critic, state, forced)).item()
            assert values[i, k] == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_acting_with_a_forced_component_takes_many_states(name):
    policy = make_scattered_policy(name)
    states = arrays()[0]
    by_component = np.stack([policy.select_action_of(states, k) for k in range(COMPONENTS)])
    assert by_component.dtype == np.float32
    assert by_component.shape == (COMPONENTS, 256, ACTIONS)
    best = policy.values_of_components(states).argmax(axis=1)
    np.testing.assert_allclose(
        policy.select_action(states), by_component[best, np.arange(256)], rtol=1e-5, atol=1e-6
    )
