"""Learning: a mixture finds all good modes, and policies beat the returns of their data."""

import dataclasses

import numpy as np
import pytest
import torch

import d4rl_tasks
from benchmarks.two_modes import MODES, NEAR, STATES, near_modes, reward, train
from d4rl_tasks.synthetic.behaviours import load_behaviour, read_manifest
from d4rl_tasks.synthetic.generate import generate
from experiment.evaluation import evaluate
from experiment.models import make_buffer as make_run_buffer
from experiment.models import make_spec
from experiment.options import policy_class, policy_module


@pytest.fixture(scope="module")
def unseen_states():
    return np.random.default_rng(1).normal(size=(500, STATES))


@pytest.fixture(scope="module")
def awac_reward(unseen_states):
    policy = train("AWAC", 1_000)
    return reward(policy.select_action(unseen_states)).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [("DMPO", 2_000, {}), ("DMPO_ant", 1_000, {"info_reg": True})],
)
def test_components_find_both_modes_where_a_gaussian_finds_their_mean(
    name, steps, options, unseen_states, awac_reward
):
    policy = train(name, steps, **options)
    by_component = np.stack(
        [policy.select_action_of(unseen_states, k) for k in range(policy.hp.latent_disc_dim)]
    )
    for mode in MODES:
        found = (np.abs(by_component - mode) < NEAR).all(axis=-1).any(axis=0)
        assert found.mean() > 0.9, f"a component is at {mode[0]} in {found.mean():.0%} of states"

    actions = policy.select_action(unseen_states)
    assert near_modes(actions).any(axis=1).mean() > 0.9
    assert reward(actions).mean() > 0.85
    assert awac_reward < 0.1

    # The posterior tells the modes apart: hardly a component is assigned to both.
    shares = []
    for mode in MODES:
        component, _ = policy.assign_components(unseen_states, np.tile(mode, (500, 1)))
        shares.append(np.bincount(component, minlength=policy.hp.latent_disc_dim) / 500)
    assert np.minimum(*shares).sum() < 0.05


HOPPER = "hopper-medium-replay-v2"


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    """20,000 transitions of the first four behaviours, and the mean return of their episodes."""
    path = tmp_path_factory.mktemp("data") / "hopper.hdf5"
    behaviours = [load_behaviour(entry["file"]) for entry in read_manifest()["hopper"][:4]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d4rl_tasks.synthetic.generate.behaviours_of", lambda task: behaviours)
        statistics = generate(HOPPER, path, transitions=20_000)
    return d4rl_tasks.load_dataset(HOPPER, path), statistics["mean_return"]


# With so few steps the weights must be mild: at the scale of 10 that long runs use, they move the
# policy further from the data than so young a critic can judge. Faster targets let values grow in
# time; AWAC, whose targets sample actions beyond the data, does not bear them.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "steps", "options"),
    [
        ("AWAC", 5_000, {"scale": 0.5}),
        ("IQL", 4_000, {"scale": 1.5, "tau": 0.02}),
        ("mixAWAC", 4_000, {"scale": 1.5, "tau": 0.02}),
        ("LP_AWAC", 4_000, {"scale": 1.5, "tau": 0.02}),
        ("DMPO", 4_000, {"scale": 1.5, "tau": 0.02}),
        ("DMPO_ant", 4_000, {"scale": 1.5, "tau": 0.02}),
    ],
)
def test_every_policy_beats_the_behaviours_on_hopper(hopper, policy, steps, options):
    dataset, behaviour_return = hopper
    torch.manual_seed(0)
    hp = policy_module(policy).Hyperparameters()
    hp = dataclasses.replace(hp, hidden=(64,) * len(hp.hidden), **options)
    spec = make_spec(policy, hp, dataset, is_antmaze=False, train_steps=steps)
    trained = policy_class(policy)(spec, hp)
    buffer, normalizer = make_run_buffer(dataset, trained, seed=0, normalize=True)
    returns = []
    for step in range(1, steps + 1):
        trained.train(buffer, 128)
        if step > steps // 2 and step % (steps // 10) == 0:
            returns.append(evaluate(trained, normalizer, HOPPER, 10, 0).returns.mean())
    assert np.mean(returns) > behaviour_return, returns
