"""Train steps in units of `policy_freq`, as a GPU captures them; without a GPU all but that."""

import copy
import csv
import io
from types import SimpleNamespace

import pytest
import torch
from test_speed_properties import POLICIES, VARIANTS, make_buffer, make_policy
from torch.optim import Optimizer

import main_training
from d4rl_tasks.synthetic.generate import generate
from experiment.capture import CapturedTrainSteps, TrainSteps, make_capturable, schedules_of


class AdamKernel:
    """What Adam starts on the device in a step, without what PyTorch itself breaks traces with."""

    def __init__(self, adam):
        (group,) = adam.param_groups
        self.param_groups = [{"params": list(group["params"])}]
        self.state = [
            [adam.state[parameter][name] for parameter in group["params"]]
            for name in ("exp_avg", "exp_avg_sq", "step")
        ]
        self.options = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        self.options |= {name: group[name] for name in ("amsgrad", "maximize")}
        self.options["beta1"], self.options["beta2"] = group["betas"]

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        averages, squares, steps = self.state
        gradients = [parameter.grad for parameter in group["params"]]
        torch._fused_adam_(group["params"], gradients, averages, squares, [], steps, **self.options)


def steps_after_a_warm_up(name, options):
    policy, buffer = make_policy(name, **options), make_buffer()
    buffer.generator = None  # torch.compile knows only the global one
    train_steps = TrainSteps(policy, buffer, 32)
    train_steps.run(4)
    torch.manual_seed(1)
    return train_steps


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_unit_traces_without_a_graph_break(name, options):
    eager = steps_after_a_warm_up(name, options)
    expected = eager.run(2)
    unit = steps_after_a_warm_up(name, options)
    for key, part in list(vars(unit.policy).items()):
        if isinstance(part, Optimizer):
            setattr(unit.policy, key, AdamKernel(part))
        elif part in schedules_of(unit.policy):  # the host's, between units
            setattr(unit.policy, key, SimpleNamespace(step=lambda: None))
    torch.compiler.reset()
    torch.manual_seed(1)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        actual = torch.compile(unit.run, fullgraph=True, backend="eager")(2)
    torch.testing.assert_close(actual[0]["critic"], expected[0]["critic"], rtol=1e-4, atol=1e-5)
    # Adam makes much of small differences in its first steps.
    torch.testing.assert_close(actual, expected, rtol=3e-3, atol=1e-3)
    assert unit.policy.total_it == eager.policy.total_it


class UncapturedUnits(TrainSteps):
    """Runs the units that a GPU would capture."""

    sizes = []

    def __call__(self, most):
        unit = self.policy.hp.policy_freq
        fits = self.policy.total_it % unit == 0 and most >= unit
        self.sizes.append(unit if fits else 1)
        return self.run(self.sizes[-1])


def results_of_a_run(folder, dataset, monkeypatch):
    """All that a run writes but the times."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    command = [
        *("--policy", "DMPO", "--env", "hopper-medium-v2", "--source", str(dataset)),
        *("--max_timesteps", "50", "--eval_freq", "20", "--c_loss_freq", "15"),
        *("--checkpoint_freq", "7", "--batch_size", "16", "--hidden", "8", "8"),
        *("--policy_freq", "3", "--logger", "none"),
    ]
    assert main_training.main(command) == 0
    (rows,), (losses,) = folder.glob("results/*/*.csv"), folder.glob("results/*/*loss*.txt")
    table = [row | {"wall_time": 0} for row in csv.DictReader(io.StringIO(rows.read_text()))]
    (model,) = folder.glob("models/*.pt")
    return table, losses.read_text(), torch.load(model, weights_only=True)["state"]["actor"]


def test_a_run_in_units_writes_what_a_run_of_single_steps_writes(tmp_path, monkeypatch):
    dataset = tmp_path / "data.hdf5"
    generate("hopper-medium-v2", dataset, transitions=1500)
    table, losses, actor = results_of_a_run(tmp_path / "single", dataset, monkeypatch)
    monkeypatch.setattr(main_training, "TrainSteps", UncapturedUnits)
    in_units = results_of_a_run(tmp_path / "units", dataset, monkeypatch)
    assert sum(UncapturedUnits.sizes) == 50
    assert {1, 3} == set(UncapturedUnits.sizes)
    assert in_units[:2] == (table, losses)
    assert [row["step"] for row in table] == ["20", "40", "50"]
    for name, weight in actor.items():
        assert torch.equal(weight, in_units[2][name])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_made_capturable_trains_alike_and_can_be_loaded(name):
    policies = [make_policy(name) for _ in range(3)]
    for policy in policies[:2]:
        torch.manual_seed(1)
        TrainSteps(policy, make_buffer(), 32).run(4)
    make_capturable(policies[1])
    policies[2].load_state_dict(copy.deepcopy(policies[1].state_dict()))
    losses = []
    for policy in policies:
        torch.manual_seed(1)
        losses.append(TrainSteps(policy, make_buffer(), 32).run(6))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(losses[2], losses[1], rtol=0, atol=0)


# With a GPU


def cuda_policy(name, options):
    torch.manual_seed(0)
    template = make_policy(name, **options)
    policy = type(template)(17, 6, 1.0, template.hp, "cuda")
    policy.load_state_dict(template.state_dict())
    return policy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_captured_steps_are_the_steps_one_by_one(name, options):
    losses = []
    for kind in (TrainSteps, CapturedTrainSteps):
        policy, buffer = cuda_policy(name, options), make_buffer(device="cuda")
        torch.manual_seed(1)
        train_steps, done = kind(policy, buffer, 32), []
        while len(done) < 21:
            done += train_steps(21 - len(done))
        assert policy.total_it == 21
        losses.append(done)
    torch.testing.assert_close(losses[1], losses[0], rtol=3e-3, atol=1e-3)
