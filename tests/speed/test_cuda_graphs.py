"""Train steps in units of `policy_freq`, as a GPU captures them; only the capture needs a GPU."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from runs import make_training, networks_in, one_file, rows_of, run_command, same_tensors
from test_speed_properties import POLICIES, VARIANTS, make_buffer, make_policy
from torch.optim import Optimizer

from speed.checked import FasterStepsError, make_capturable, schedules_of
from speed.compiled import tensors_of
from speed.cuda_graphs import CapturedTraining
from utils import RunSpec


class AdamKernel:
    """Adam's kernel of a step, without the Python that breaks PyTorch's traces."""

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


def run(policy, buffer, steps, batch_size=32):
    """Train steps one by one; the losses of each."""
    return [policy.train(buffer, batch_size) for _ in range(steps)]


def steps_after_a_warm_up(name, options):
    policy, buffer = make_policy(name, **options), make_buffer()
    buffer.generator = None  # torch.compile knows only the global one
    run(policy, buffer, 4)
    torch.manual_seed(1)
    return policy, buffer


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_unit_traces_without_a_graph_break(name, options):
    eager, buffer = steps_after_a_warm_up(name, options)
    expected = run(eager, buffer, 2)
    unit, buffer = steps_after_a_warm_up(name, options)
    for key, part in list(vars(unit).items()):
        if isinstance(part, Optimizer):
            setattr(unit, key, AdamKernel(part))
        elif part in schedules_of(unit):  # the host's, between units
            setattr(unit, key, SimpleNamespace(step=lambda: None))
    torch.compiler.reset()
    torch.manual_seed(1)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        actual = torch.compile(run, fullgraph=True, backend="eager")(unit, buffer, 2)
    torch.testing.assert_close(actual[0]["critic"], expected[0]["critic"], rtol=1e-4, atol=1e-5)
    # Adam makes much of small differences in its first steps.
    torch.testing.assert_close(actual, expected, rtol=3e-3, atol=1e-3)
    assert unit.total_it == eager.total_it


class UncapturedUnits:
    """Runs the units that a GPU would capture."""

    def __init__(self, training):
        self.policy, self.buffer = training.policy, training.buffer
        self.batch_size = training.options.batch_size
        self.sizes = []

    def __call__(self, most):
        unit = self.policy.hp.policy_freq
        fits = self.policy.total_it % unit == 0 and most >= unit
        self.sizes.append(unit if fits else 1)
        return run(self.policy, self.buffer, self.sizes[-1], self.batch_size)


def results_of_a_run(dataset, folder, monkeypatch, in_units):
    """All that a run writes except the times, and the sizes of its units."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    more = ["--checkpoint_freq", "7", "--policy_freq", "3", "--logger", "none"]
    options = {"policy": "DMPO", "steps": 50, "eval_freq": 20, "c_loss_freq": 15}
    training = make_training(run_command(dataset, *more, **options))
    units = UncapturedUnits(training)
    if in_units:
        training._faster_training = lambda: units
    training.train()
    table = [row | {"wall_time": 0} for row in rows_of()]
    losses = one_file("results/*/*loss*.txt").read_text()
    return table, losses, networks_in(one_file("models/*_????????.safetensors")), units.sizes


def test_a_run_in_units_writes_what_a_run_of_single_steps_writes(hopper, tmp_path, monkeypatch):
    table, losses, actor, _ = results_of_a_run(hopper, tmp_path / "single", monkeypatch, False)
    in_units = results_of_a_run(hopper, tmp_path / "units", monkeypatch, True)
    assert sum(in_units[3]) == 50
    assert {1, 3} == set(in_units[3])
    assert in_units[:2] == (table, losses)
    assert [row["step"] for row in table] == ["20", "40", "50"]
    assert same_tensors(actor, in_units[2])


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_made_capturable_trains_alike_and_can_be_loaded(name):
    policies = [make_policy(name) for _ in range(3)]
    for policy in policies[:2]:
        torch.manual_seed(1)
        run(policy, make_buffer(), 4)
    make_capturable(policies[1])
    policies[2].load_state_dict(copy.deepcopy(policies[1].state_dict()))
    losses = []
    for policy in policies:
        torch.manual_seed(1)
        losses.append(run(policy, make_buffer(), 6))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(losses[2], losses[1], rtol=0, atol=0)


# The graph's check of itself


def counters_of(policy):
    """What Python counts in a unit."""
    schedules = [(one, one.state_dict()) for one in schedules_of(policy)]
    rates = [
        (group, copy.copy(group["lr"]))
        for one, _ in schedules
        for group in one.optimizer.param_groups
    ]
    return policy.total_it, [(one, copy.deepcopy(state)) for one, state in schedules], rates


class SimulatedUnit:
    """Does without a GPU what a graph does: captured, Python runs; replayed, the kernels run."""

    def __init__(self, policy, run, generator, stream):
        self.policy, self.run, self.total_it = policy, run, policy.total_it
        saved = [tensor.clone() for tensor in tensors_of(policy)]
        draws, noise = generator.get_state(), torch.get_rng_state()
        run()
        for tensor, value in zip(tensors_of(policy), saved, strict=True):
            tensor.data.copy_(value)
        generator.set_state(draws)
        torch.set_rng_state(noise)

    def replay(self):
        total_it, schedules, rates = counters_of(self.policy)
        self.policy.total_it = self.total_it  # a number is what it was when captured
        losses = self.run()
        self.policy.total_it = total_it
        for schedule, state in schedules:
            schedule.load_state_dict(state)
        for group, rate in rates:
            group["lr"] = rate
        return losses


def seeded_buffer():
    buffer = make_buffer()
    buffer.generator = torch.Generator().manual_seed(3)
    return buffer


def simulated(policy, unit=SimulatedUnit):
    """Training in simulated units, and the lines it prints."""
    notes = []
    make_unit = functools.partial(unit, policy)
    return CapturedTraining(policy, seeded_buffer(), 32, notes.append, make_unit), notes


def train_simulated(policy, unit=SimulatedUnit, steps=21):
    training, notes = simulated(policy, unit)
    losses, sizes = [], []
    while len(losses) < steps:
        done = training(steps - len(losses))
        losses += done
        sizes.append(len(done))
    return losses, sizes, notes


def train_singly(policy, steps=21, batch_size=32):
    make_capturable(policy)
    torch.manual_seed(1)
    return run(policy, seeded_buffer(), steps, batch_size)


def rates_of(policy):
    """The present values of a policy's schedules."""
    schedules = schedules_of(policy)
    groups = [group for one in schedules for group in one.optimizer.param_groups]
    return [one.last_epoch for one in schedules] + [float(group["lr"]) for group in groups]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_units_that_agree_are_kept(name, options):
    single, policy = make_policy(name, **options), make_policy(name, **options)
    expected = train_singly(single)
    torch.manual_seed(1)
    losses, sizes, notes = train_simulated(policy)
    assert notes == [] and policy.total_it == 21
    assert rates_of(policy) == rates_of(single)
    unit = getattr(policy.hp, "policy_freq", 1)
    assert sizes[: 3 * unit] == [1] * (3 * unit) and set(sizes[3 * unit : -1]) == {unit}
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


class TrainsNothing(SimulatedUnit):
    def replay(self):
        saved = [tensor.clone() for tensor in tensors_of(self.policy)]
        losses = super().replay()
        for tensor, value in zip(tensors_of(self.policy), saved, strict=True):
            tensor.data.copy_(value)
        return losses


class TrainsTwice(SimulatedUnit):
    def replay(self):
        losses = super().replay()
        super().replay()
        return losses


class DrawsOtherBatches(SimulatedUnit):
    def __init__(self, policy, run, generator, stream):
        super().__init__(policy, run, generator, stream)
        generator.manual_seed(99)


class HasNoLosses(SimulatedUnit):
    def replay(self):
        return [{} for _ in super().replay()]


class BecomesNaN(SimulatedUnit):
    def replay(self):
        losses = super().replay()
        next(iter(self.policy.networks().values())).parameters().__next__().data.fill_(torch.nan)
        return losses


class CannotBeCaptured:
    def __init__(self, policy, run, generator, stream):
        run()  # Python has run, and perhaps kernels, when a capture fails
        raise FasterStepsError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    "unit",
    [TrainsNothing, TrainsTwice, DrawsOtherBatches, HasNoLosses, BecomesNaN, CannotBeCaptured],
)
@pytest.mark.parametrize("name", POLICIES)
def test_a_unit_that_fails_or_differs_falls_back_to_single_steps(name, unit):
    single, policy = make_policy(name), make_policy(name)
    expected = train_singly(single)
    torch.manual_seed(1)
    losses, sizes, notes = train_simulated(policy, unit)
    (note,) = notes
    assert note.startswith(f"note: {name} trains without CUDA graphs, step by step (")
    assert "\n" not in note
    assert sizes[-5:] == [1] * 5 and policy.total_it == 21
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


class WithASchedule(type(make_policy("AWAC"))):
    """AWAC whose actor has a schedule that makes each rate of the last one."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.actor_optimizer, 0.9)
        self.error = torch.nn.MSELoss()  # has no parameters

    def update(self, batch):
        losses = super().update(batch)
        self.schedule.step()
        return losses


class Anneals(WithASchedule):
    """Looks at the count of steps itself."""

    def update(self, batch):
        share = min(1.0, self.total_it / 100)
        return {name: share * loss for name, loss in super().update(batch).items()}


class HasAnotherFrequency(WithASchedule):
    def update(self, batch):
        losses = super().update(batch)
        return losses if self.total_it % 4 == 0 else losses | {"other": losses["critic"]}


def like_awac(kind):
    template = make_policy("AWAC")
    torch.manual_seed(0)
    return kind(RunSpec(17, 6), template.hp)


def test_a_schedule_of_ones_own_counts_each_step_once():
    single, policy = like_awac(WithASchedule), like_awac(WithASchedule)
    expected = train_singly(single)
    torch.manual_seed(1)
    losses, _, notes = train_simulated(policy)
    assert notes == [] and rates_of(policy) == pytest.approx(rates_of(single))
    assert rates_of(policy) == [21, pytest.approx(3e-4 * 0.9**21)]
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [Anneals, HasAnotherFrequency])
def test_a_policy_that_looks_at_the_count_of_steps_trains_step_by_step(kind):
    single, policy = like_awac(kind), like_awac(kind)
    expected = train_singly(single)
    torch.manual_seed(1)
    losses, _, notes = train_simulated(policy)
    assert len(notes) == 1 and "a step depends on total_it" in notes[0]
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


# With a GPU


def cuda_policy(name, options):
    torch.manual_seed(0)
    template = make_policy(name, **options)
    policy = type(template)(RunSpec(17, 6), template.hp, "cuda")
    policy.load_state_dict(template.state_dict())
    return policy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_captured_steps_are_the_steps_one_by_one(name, options):
    policy, buffer = cuda_policy(name, options), make_buffer(device="cuda")
    torch.manual_seed(1)
    expected = run(policy, buffer, 21)
    policy, buffer = cuda_policy(name, options), make_buffer(device="cuda")
    torch.manual_seed(1)
    notes, done, sizes = [], [], set()
    captured = CapturedTraining(policy, buffer, 32, notes.append)
    while len(done) < 21:
        losses = captured(21 - len(done))
        sizes.add(len(losses))
        done += losses
    assert policy.total_it == 21 and notes == []
    assert captured._made and captured.cycle in sizes
    torch.testing.assert_close(done, expected, rtol=3e-3, atol=1e-3)
