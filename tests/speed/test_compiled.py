"""Train steps as compiled programs; the compiler itself runs in the slow tests only."""

import functools
import importlib
import signal

import pytest
import torch
from runs import make_training, networks_in, one_file, run_command, same_tensors
from test_cuda_graphs import counters_of, rates_of, seeded_buffer, train_singly
from test_speed_properties import POLICIES, VARIANTS, make_policy

from experiment.errors import StoppedError
from speed import products
from speed.checked import FasterStepsError
from speed.compiled import CompiledStep, CompiledTraining, tensors_of
from speed.faster import faster_training

STEPS, BATCH_SIZE = 9, 64


def train_compiled(policy, make_step):
    """Losses of train steps, and the lines that are printed."""
    notes = []
    torch.manual_seed(1)
    training = CompiledTraining(policy, seeded_buffer(), BATCH_SIZE, notes.append, make_step)
    return [training(STEPS)[0] for _ in range(STEPS)], notes


def assert_trained_alike(policy, other, losses, expected):
    assert policy.total_it == other.total_it
    assert rates_of(policy) == pytest.approx(rates_of(other))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    ours, theirs = [torch.cat([t.flatten() for t in tensors_of(one)]) for one in (policy, other)]
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_an_option_for_another_device_is_ignored_and_named():
    notes = []
    policy = make_policy("AWAC")
    parts = policy, seeded_buffer(), BATCH_SIZE, notes.append
    assert faster_training(*parts, captures=True, compiles=False) is None
    assert notes == []
    assert faster_training(*parts, captures=False, compiles=False) is None
    assert notes == ["warning: --no_cuda_graph is ignored on a CPU"]


class SimulatedStep:
    """Does without a compiler what a program does: traced, Python runs; called, tensors change."""

    def __init__(self, policy, train, tensors, batch):
        self.policy, self.train, self.count = policy, train, len(tensors)
        self.total_it = policy.total_it
        train(batch)

    def __call__(self, tensors, batch):
        assert len(tensors) == self.count and not any(t.requires_grad for t in tensors)
        own = {t.data_ptr() for t in tensors_of(self.policy)}
        assert {t.data_ptr() for t in tensors} == own
        total_it, schedules, rates = counters_of(self.policy)
        self.policy.total_it = self.total_it
        losses = self.train(batch)
        self.policy.total_it = total_it
        for schedule, state in schedules:
            schedule.load_state_dict(state)
        for group, rate in rates:
            group["lr"].copy_(rate)
        return losses


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_steps_that_agree_are_kept(name, options):
    single, policy = make_policy(name, **options), make_policy(name, **options)
    expected = train_singly(single, STEPS, BATCH_SIZE)
    losses, notes = train_compiled(policy, functools.partial(SimulatedStep, policy))
    assert notes == []
    assert_trained_alike(policy, single, losses, expected)


class TrainsNothing(SimulatedStep):
    def __call__(self, tensors, batch):
        saved = [tensor.clone() for tensor in tensors]
        losses = super().__call__(tensors, batch)
        for tensor, value in zip(tensors, saved, strict=True):
            tensor.copy_(value)
        return losses


class DrawsNoiseTwice(SimulatedStep):
    def __call__(self, tensors, batch):
        torch.randn(1000)
        return super().__call__(tensors, batch)


class HasNoLosses(SimulatedStep):
    def __call__(self, tensors, batch):
        super().__call__(tensors, batch)
        return {}


class CannotBeCompiled:
    def __init__(self, policy, train, tensors, batch):
        train(batch)
        raise FasterStepsError("it cannot be compiled: no compiler")


class MakesTensors(SimulatedStep):
    def __init__(self, policy, train, tensors, batch):
        super().__init__(policy, train, tensors[1:], batch)
        tensors.pop()


@pytest.mark.parametrize(
    ("make_step", "reason"),
    [
        (TrainsNothing, "differs: it is"),
        (HasNoLosses, "different losses"),
        (CannotBeCompiled, "no compiler"),
        (MakesTensors, "makes tensors"),
    ],
)
@pytest.mark.parametrize("name", POLICIES)
def test_a_step_that_fails_or_differs_falls_back_to_python(name, make_step, reason):
    single, policy = make_policy(name), make_policy(name)
    expected = train_singly(single, STEPS, BATCH_SIZE)
    losses, (note,) = train_compiled(policy, functools.partial(make_step, policy))
    assert note.startswith(f"note: {name} trains without compiled steps, step by step (")
    assert reason in note and "\n" not in note
    assert_trained_alike(policy, single, losses, expected)


def test_other_draws_are_seen():
    policy = make_policy("DMPO")
    _, notes = train_compiled(policy, functools.partial(DrawsNoiseTwice, policy))
    assert len(notes) == 1


def test_a_policy_whose_step_reads_a_value_back_is_not_compiled():
    policy = make_policy("AWAC")
    update = policy.update
    policy.update = lambda batch: update(batch) if batch.reward.sum().item() else {}
    _, (note,) = train_compiled(policy, CompiledStep)
    assert "it cannot be compiled" in note and "\n" not in note


def test_an_adam_with_weight_decay_is_not_compiled():
    policy = make_policy("AWAC")
    policy.actor_optimizer.param_groups[0]["weight_decay"] = 0.1
    _, (note,) = train_compiled(policy, CompiledStep)
    assert "Adam has weight decay" in note


# With a compiler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "library"),
    [*((*variant, "oneDNN") for variant in VARIANTS), ("DMPO", {}, "BLAS")],
)
def test_compiled_steps_are_the_steps_of_python(name, options, library, monkeypatch):
    if library == "oneDNN" and not products.has_onednn():
        pytest.skip("PyTorch has no oneDNN")
    monkeypatch.setattr(products, "_library", library)
    single, policy = [make_policy(name, width=96, **options) for _ in range(2)]
    expected = train_singly(single, STEPS, BATCH_SIZE)
    losses, notes = train_compiled(policy, CompiledStep)
    assert notes == []
    assert_trained_alike(policy, single, losses, expected)


def stop_after(training, step):
    """Let a run believe that a signal has come after a step."""
    add = training.state.losses.add

    def add_and_stop(number, losses):
        add(number, losses)
        if number == step:
            training.signals.received = signal.SIGTERM

    training.state.losses.add = add_and_stop


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["DMPO", "IQL"])
def test_a_compiled_run_resumes_with_the_same_bits(hopper, tmp_path, monkeypatch, capsys, policy):
    more = ["--compile", "--batch_size", "64", "--hidden", "96", "96", "--logger", "none"]
    argv = run_command(hopper, *more, policy=policy, steps=30, eval_freq=7)
    networks = []
    for name, stops in (("whole", []), ("parts", [1, 2, 9])):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        for step in stops:
            training = make_training(argv)
            stop_after(training, step)
            with pytest.raises(StoppedError):
                training.train()
        make_training(argv).train()
        networks.append(networks_in(one_file("models/*_????????.safetensors")))
    assert "trains without" not in "".join(capsys.readouterr())
    assert same_tensors(*networks)


@pytest.mark.slow
def test_without_a_compiler_a_run_says_so_and_trains(hopper, monkeypatch, capsys, tmp_path):
    cpp = importlib.import_module("torch._inductor.config").cpp
    monkeypatch.setattr(cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.chdir(tmp_path)
    make_training(run_command(hopper, "--compile")).train()
    printed = "".join(capsys.readouterr())
    assert "trains without compiled steps, step by step (it cannot be compiled" in printed
    assert "score" in printed
