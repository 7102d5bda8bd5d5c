"""Bootstrap intervals, interquartile means and probabilities of improvement."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from reports.statistics import interquartile_mean, probability_of_improvement


def test_interquartile_mean_is_that_of_the_middle_half():
    tasks = [np.array([0.0, 10.0, 20.0, 30.0]), np.array([40.0, 50.0, 60.0, 1e6])]
    estimate = interquartile_mean(tasks)
    assert estimate.value == np.mean([20, 30, 40, 50])
    assert estimate.drawn == "runs" and estimate.low < estimate.value < estimate.high


def test_intervals_resample_runs_within_tasks():
    # Tasks far apart, runs close together: only resampling within tasks leaves little to vary.
    tasks = [np.array([0.0, 1.0]), np.array([1000.0, 1001.0])]
    estimate = interquartile_mean(tasks)
    assert estimate.drawn == "runs" and estimate.high - estimate.low <= 1.0
    estimate = interquartile_mean([scores[:1] for scores in tasks])
    assert estimate.drawn == "tasks" and estimate.high - estimate.low == 1000.0


def test_a_single_run_has_no_interval():
    estimate = interquartile_mean([np.array([7.0])])
    assert (estimate.value, estimate.low, estimate.high) == (7.0, None, None)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        estimate = interquartile_mean([rng.normal(50, 10, 10) for _ in range(5)])
        hits += estimate.low < 50 < estimate.high
    assert hits >= 85  # below that with probability 1e-4 if they cover 95 %, percentile's 93 %


scores = arrays(float, st.integers(1, 5), elements=st.integers(-100, 100).map(float))


@given(ours=scores, theirs=scores)
def test_probability_of_improvement_is_that_of_mann_whitney(ours, theirs):
    value = probability_of_improvement([(ours, theirs)]).value
    u = stats.mannwhitneyu(ours, theirs, method="asymptotic").statistic
    np.testing.assert_allclose(value, u / (len(ours) * len(theirs)))
    other = probability_of_improvement([(theirs, ours)]).value
    np.testing.assert_allclose(value + other, 1)


def test_probability_of_improvement_is_the_mean_over_tasks():
    always, never = np.array([2.0, 3.0]), np.array([0.0, 1.0])
    pairs = [(always, never), (never, always), (always, never), (always, never)]
    estimate = probability_of_improvement(pairs)
    assert (estimate.value, estimate.low, estimate.high) == (0.75, 0.75, 0.75)
