"""Train steps on a GPU, a whole unit of them at a time, as a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from utils import Policy, ReplayBuffer

WARM_UP_UNITS = 3  # before a capture; they make the optimisers' state and the libraries' handles

Losses = dict[str, Tensor]


class CaptureError(Exception):
    """A policy's train steps cannot become a CUDA graph; the message says why, in one line."""


class CapturedTraining:
    """Runs train steps in units, which start together as one CUDA graph.

    A unit is `policy_freq` steps, sampling included, the last of which updates the policy. Where
    no whole unit fits, the steps run one by one.
    """

    def __init__(self, policy: Policy, replay_buffer: ReplayBuffer, batch_size: int):
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.batch_size = batch_size
        self.unit = getattr(policy.hp, "policy_freq", 1)
        self._left_to_warm_up = WARM_UP_UNITS * self.unit
        self._stream = torch.cuda.Stream(policy.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, most: int) -> list[Losses]:
        """Train one step, or several but at most `most`; returns the losses of each.

        Raises:
            CaptureError: no graph of these steps can be made.
        """
        with self._on_own_stream():
            is_aligned = self.policy.total_it % self.unit == 0
            if self._left_to_warm_up > 0 or not is_aligned or most < self.unit:
                self._left_to_warm_up -= 1
                return self._run(1)
            return self._run_unit()

    def _run(self, steps: int) -> list[Losses]:
        return [self.policy.train(self.replay_buffer, self.batch_size) for _ in range(steps)]

    @contextlib.contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """All steps on one stream, as a graph must not depend on unfinished work of another."""
        outside = torch.cuda.current_stream(self.policy.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def _run_unit(self) -> list[Losses]:
        # A capture does what Python does in a unit, counting, and the first replay the rest.
        graph = self._graph or self._capture()
        graph.replay()
        if self._graph is None:
            self._graph = graph
        else:
            self.policy.total_it += self.unit
            for schedule, updates in self._updates_of_schedules.items():
                for _ in range(updates):  # the rate that the graph sets is always the first unit's
                    schedule.step()
        return [{name: loss.clone() for name, loss in step.items()} for step in self._losses]

    def _capture(self) -> torch.cuda.CUDAGraph:
        make_capturable(self.policy)
        before = {schedule: schedule.last_epoch for schedule in schedules_of(self.policy)}
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.replay_buffer.generator)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._losses = self._run(self.unit)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            raise CaptureError(
                f"{type(self.policy).__name__}'s train steps cannot become a CUDA graph "
                f"({reason}): --no_cuda_graph runs them one by one"
            ) from error
        self._updates_of_schedules = {s: s.last_epoch - epoch for s, epoch in before.items()}
        return graph


def schedules_of(policy: Policy) -> list[LRScheduler]:
    """The schedules of a policy's learning rates."""
    return [part for part in policy.parts().values() if isinstance(part, LRScheduler)]


def make_capturable(policy: Policy) -> None:
    """Let a policy's optimisers run in a graph: learning rates that change are on the device."""
    for part in policy.parts().values():
        if isinstance(part, Optimizer):
            for group in part.param_groups:
                group["capturable"] = True
    for schedule in schedules_of(policy):
        for group in schedule.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], device=policy.device)
