"""The measurements' own arithmetic."""

import numpy as np
import pytest

import d4rl_tasks
from benchmarks import evaluation, scale


def test_the_recorded_actions_keep_every_episode_going_to_its_end():
    actions = evaluation.record_actions()
    assert actions.shape == (1000, evaluation.EVAL_EPISODES, evaluation.ACTIONS)
    environment = d4rl_tasks.make_vec(evaluation.TASK, evaluation.EVAL_EPISODES)
    environment.reset(seed=evaluation.SEEDS)
    for step in actions:
        assert environment.active.all()
        environment.step(step)
    assert not environment.active.any()
    environment.close()


@pytest.mark.slow
def test_the_counted_operations_are_those_of_the_matrix_products():
    widths = [scale.measure("AWAC", "hidden", size).gflop for size in (64, 128)]
    batches = [scale.measure("AWAC", "batch_size", size).gflop for size in (64, 128)]
    np.testing.assert_allclose(batches[1] / batches[0], 2)
    assert 2 < widths[1] / widths[0] < 4


def test_growth_is_relative_to_the_first_size():
    points = [
        scale.Point("DMPO", "hidden", 64, milliseconds=2.0, gflop=1.0),
        scale.Point("DMPO", "hidden", 128, milliseconds=3.0, gflop=4.0),
    ]
    assert scale.growth(points) == [(1.0, 1.0), (1.5, 4.0)]
    assert "| DMPO | hidden width 128 | 3.00 | 4.000 | 1.5 | 4.0 |" in scale.table([points])
