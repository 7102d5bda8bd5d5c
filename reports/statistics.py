"""Comparisons over several tasks, as Agarwal et al. advise (2021, arXiv:2108.13264).

Intervals are 95 % percentile bootstrap intervals. Where every task has two seeds or more, runs are
resampled within each task (stratified); with fewer, tasks are resampled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 5_000
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % interval.

    Attributes:
        low, high: None where a single run leaves nothing to draw from.
        drawn: the units that the bootstrap resamples: "runs", "tasks" or "".
    """

    value: float
    low: float | None
    high: float | None
    drawn: str

    @property
    def of_the_opposite(self) -> "Estimate":
        """The estimate of 1 - p, if this one is of a probability p."""
        low = None if self.high is None else 1 - self.high
        high = None if self.low is None else 1 - self.low
        return Estimate(1 - self.value, low, high, self.drawn)


def interquartile_mean(tasks: Sequence[np.ndarray]) -> Estimate:
    """Mean of the middle half of all runs' scores.

    Args:
        tasks: for each task the scores of its runs, (seeds,) float64.
    """

    def middle(samples: Sequence[np.ndarray]) -> np.ndarray:
        return stats.trim_mean(np.concatenate(samples, axis=-1), 0.25, axis=-1)

    return _estimate([(scores,) for scores in tasks], lambda pairs: middle([s for (s,) in pairs]))


def probability_of_improvement(tasks: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Probability that a run of one policy scores above one of another; ties count half.

    Args:
        tasks: for each task the scores of both, (seeds,) float64 each; the mean is over tasks.
    """

    def mean(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return np.mean([_share_above(ours, theirs) for ours, theirs in pairs], axis=0)

    return _estimate(tasks, mean)


def _share_above(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Mann-Whitney's U over the number of pairs, along the last axis."""
    difference = ours[..., :, None] - theirs[..., None, :]
    return (np.sign(difference) / 2 + 0.5).mean(axis=(-2, -1))


def _estimate(tasks: Sequence[tuple[np.ndarray, ...]], statistic: Callable) -> Estimate:
    """Bootstrap a statistic of tasks, each one or two samples of scores, (..., seeds)."""
    value = float(statistic(tasks))
    width = len(tasks[0])
    samples = [sample for task in tasks for sample in task]
    if min(len(sample) for sample in samples) > 1:

        def of_runs(*drawn: np.ndarray, axis: int) -> np.ndarray:
            return statistic([drawn[i : i + width] for i in range(0, len(drawn), width)])

        return _interval(value, samples, of_runs, "runs", vectorized=True)
    if len(tasks) > 1:

        def of_tasks(drawn: np.ndarray) -> np.ndarray:
            return statistic([tasks[index] for index in drawn])

        return _interval(value, [np.arange(len(tasks))], of_tasks, "tasks", vectorized=False)
    return Estimate(value, None, None, "")


def _interval(
    value: float, samples: list[np.ndarray], statistic: Callable, drawn: str, vectorized: bool
) -> Estimate:
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=vectorized,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), drawn)
