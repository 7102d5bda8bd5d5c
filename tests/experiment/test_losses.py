"""The losses of the train steps: where a divergence began."""

import math

import pytest
import torch

from experiment.errors import DivergedError
from experiment.losses import LossLog


@pytest.mark.parametrize("first", ["value", "critic"])
def test_the_error_names_the_loss_that_diverged_first(first):
    log, other = LossLog(), {"value": "critic", "critic": "value"}[first]
    for step in range(1, 6):
        values = {first: 1.0 if step < 2 else math.inf, other: 1.0 if step < 4 else math.nan}
        log.add(step, {name: torch.tensor(values[name]) for name in ("value", "critic")})
    with pytest.raises(DivergedError, match=f"the {first} loss became inf at train step 2;"):
        log.read()


def test_the_latest_losses_are_the_means_since_the_reading_before():
    log = LossLog()
    for step, losses in enumerate([{"critic": 1}, {"critic": 2, "actor": 7}, {"critic": 6}], 1):
        log.add(step, {name: torch.tensor(float(loss)) for name, loss in losses.items()})
    log.read()
    assert log.latest == {"critic": 3, "actor": 7}
    log.add(4, {"critic": torch.tensor(5.0)})
    log.read()
    assert log.latest["critic"] == 5
