"""Options: the original command line, and one for every hyperparameter of every policy."""

import dataclasses

import pytest
from helpers import other_value

from experiment.options import POLICIES, hyperparameters_of, make_parser, parse

ORIGINAL = (
    "--policy DMPO_ant --env antmaze-large-diverse-v0 --seed 1 --eval_freq 5e3 --c_loss_freq 5e3 "
    "--max_timesteps 1e6 --save_model True --load_model= --batch_size 256 --discount 0.99 "
    "--tau 0.005 --policy_freq 2 --normalize True --scale 10.0 --score_type adv "
    "--hidden 256 256 --weight_type= --device_id -1 --latent_disc_dim 8 --info-reg --ilr 5e-7 "
    "--doubleq_min 0.7 --expectile 0.9 --max_latent_action 2.0 --no_noise"
)


def test_every_option_of_the_original_command_line_is_accepted():
    options = parse(ORIGINAL.split())
    assert options.run.max_timesteps == 1_000_000 and options.run.save_model is True
    hp = options.hyperparameters
    assert (hp.scale, hp.hidden, hp.info_reg, hp.ilr) == (10.0, (256, 256), True, 5e-7)
    assert sorted(options.ignored) == ["expectile", "max_latent_action", "no_noise", "score_type"]


def test_the_documented_defaults():
    run = parse([]).run
    assert (run.policy, run.env) == ("DMPO_ant", "antmaze-large-diverse-v0")
    assert (run.seed, run.eval_freq, run.c_loss_freq) == (1, 5000, 5000)
    assert (run.max_timesteps, run.batch_size) == (1_000_000, 256)
    for policy in POLICIES:
        hp = parse(["--policy", policy]).hyperparameters
        assert hp == hyperparameters_of(policy)
        assert (hp.discount, hp.tau, hp.weight_type) == (0.99, 0.005, "")
        assert hp.scale == (5 if policy == "DMPO_ant" else 10)
        assert hp.hidden == ((256, 256, 256) if policy == "DMPO_ant" else (256, 256))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_hyperparameter_can_be_set_from_the_command_line(policy):
    for field in dataclasses.fields(hyperparameters_of(policy)):
        value = other_value(field.name, field.default)
        words = map(str, value) if isinstance(value, tuple) else [str(value)]
        hp = parse(["--policy", policy, f"--{field.name}", *words]).hyperparameters
        assert getattr(hp, field.name) == value
        assert dataclasses.replace(hp, **{field.name: field.default}) == hyperparameters_of(policy)


@pytest.mark.parametrize("spelling", ["--info-reg", "--info_reg", "--info_reg=True"])
def test_a_switch_is_found_with_hyphens_and_underscores(spelling):
    assert parse(["--policy", "DMPO", spelling]).hyperparameters.info_reg is True


def test_boolean_options_in_every_spelling():
    assert parse([]).run.normalize and parse(["--normalize"]).run.normalize
    for off in (["--normalize", "False"], ["--no-normalize"], ["--no_normalize"]):
        assert parse(off).run.normalize is False
    assert parse(["--save_model", "false"]).run.save_model is False
    assert parse(["--max_timesteps", "1e3"]).run.max_timesteps == 1000


def test_help_has_the_comment_and_the_defaults_of_every_hyperparameter():
    text = " ".join(make_parser().format_help().split())
    assert all(f"{group}" in text for group in ("run:", "results (", "training:"))
    assert "DMPO, DMPO_ant: learning rate of the mutual information (default: 5e-07)" in text
    assert "units of each hidden layer (default: 256 256; DMPO_ant: 256 256 256)" in text
    assert "IQL: tau of the expectile regression (default: 0.9)" in text
