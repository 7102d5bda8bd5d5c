"""The state of a run: what a checkpoint brings back."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import make_training, rows_of, run_command

import main_training
from experiment import state
from experiment.evaluation import Outcome
from main_training import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def draws():
    """A number from each global generator."""
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002


def test_a_seed_determines_all_global_generators(hopper):
    drawn = []
    for seed in "334":
        make_training(run_command(hopper, "--seed", seed))
        drawn.append(draws())
    first, again, other = drawn
    assert first == again and not set(first) & set(other)


def test_a_checkpoint_restores_the_generators_the_name_and_the_time_of_a_run(hopper):
    saved, restored = (make_training(run_command(hopper)).state for _ in range(2))
    draws()
    saved.evaluation_due = True
    saved.results.checkpoints.write(saved.state_dict() | {"seconds": 1000.0})
    expected = draws()
    assert restored.run_id != saved.run_id
    restored.load_state_dict(*restored.results.checkpoints.read())
    assert draws() == expected
    assert restored.run_id == saved.run_id and restored.evaluation_due
    assert 1000 <= restored.seconds < 2000


def test_the_wall_time_continues_where_a_run_is_resumed(hopper, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)

    def evaluate(*arguments, **options):
        clock.now += 100
        return Outcome(np.zeros(2), np.zeros(2))

    monkeypatch.setattr(state, "time", clock)
    monkeypatch.setattr(main_training, "evaluate", evaluate)
    for steps in (20, 40):
        assert main(run_command(hopper, "--logger", "none", steps=steps)) == 0
    assert [float(row["wall_time"]) for row in rows_of()] == [100, 200, 300, 400]
