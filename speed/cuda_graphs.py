"""Train steps on a GPU, a whole unit of them at a time, as a CUDA graph."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from speed.checked import (
    CheckedTraining,
    FasterStepsError,
    Losses,
    State,
    advance,
    updates_of,
)

if TYPE_CHECKING:
    from utils import Policy, ReplayBuffer

WARM_UP_UNITS = 3  # before a capture; they make the optimisers' state and the libraries' handles


class CudaUnit:
    """A unit of train steps as a CUDA graph.

    Args:
        run: does what Python does in a unit, and issues its kernels.
        generator: draws the batches.

    Raises:
        FasterStepsError: no graph can be made of it.
    """

    def __init__(self, run: Callable[[], list[Losses]], generator: torch.Generator, stream: Any):
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(self._graph, stream=stream):
                self._losses = run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).split("\n", 1)[0]
            raise FasterStepsError(f"the capture failed: {reason}") from error

    def replay(self) -> list[Losses]:
        """Run the kernels, nothing of Python's; returns the losses of each step."""
        self._graph.replay()
        return [{name: loss.clone() for name, loss in step.items()} for step in self._losses]


class CapturedTraining(CheckedTraining):
    """Runs train steps in units, which start together as one CUDA graph.

    A unit is `policy_freq` steps, sampling included, the last of which updates the policy. Where
    no whole unit fits, the steps run one by one.
    """

    way = "CUDA graphs"

    def __init__(
        self,
        policy: Policy,
        replay_buffer: ReplayBuffer,
        batch_size: int,
        note: Callable[[str], None] = print,
        make_unit: Callable[..., Any] = CudaUnit,
    ):
        super().__init__(policy, replay_buffer, batch_size, note)
        self._make_unit = make_unit
        self._left_to_warm_up = WARM_UP_UNITS * self.cycle
        self._stream = torch.cuda.Stream(policy.device) if policy.device.type == "cuda" else None
        self._captured: Any = None

    def __call__(self, most: int) -> list[Losses]:
        """Train one step, or several but at most `most`; returns the losses of each."""
        with self._on_own_stream():
            is_aligned = self.policy.total_it % self.cycle == 0
            if self._is_off or self._left_to_warm_up > 0 or not is_aligned or most < self.cycle:
                self._left_to_warm_up -= 1
                return self._run(1)
            if self._captured:
                return self._replay()
            losses = self._check(self.cycle, self._capture)
            if self._is_off:
                self._captured = None  # and its memory
            return losses

    @contextlib.contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """All steps on one stream, as a graph must not depend on unfinished work of another."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self.policy.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def _capture(self, _: State) -> list[Losses]:
        # A capture does what Python does in a unit, counting, and the first replay the rest.
        before = updates_of(self.policy)
        run = functools.partial(self._run, self.cycle)
        self._captured = self._make_unit(run, self.replay_buffer.generator, self._stream)
        after = updates_of(self.policy)
        self._updates = {schedule: after[schedule] - before[schedule] for schedule in before}
        return self._captured.replay()

    def _replay(self) -> list[Losses]:
        losses = self._captured.replay()
        self.policy.total_it += self.cycle
        advance(self._updates)
        return losses
