"""Train steps on a GPU, a whole unit of them at a time, as a CUDA graph."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from speed.checked import CheckedTraining, FasterStepsError, Losses, State, first_line

if TYPE_CHECKING:
    from utils import Policy

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
            raise FasterStepsError(f"the capture failed: {first_line(error)}") from error

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
    default_make_faster = CudaUnit

    def __init__(self, policy: Policy, *others: Any):
        super().__init__(policy, *others)
        self._left_to_warm_up = WARM_UP_UNITS * self.cycle
        self._stream = torch.cuda.Stream(policy.device) if policy.device.type == "cuda" else None

    def __call__(self, most: int) -> list[Losses]:
        """Train one step, or several but at most `most`; returns the losses of each."""
        with self._on_own_stream():
            is_aligned = self.policy.total_it % self.cycle == 0
            if self._is_off or self._left_to_warm_up > 0 or not is_aligned or most < self.cycle:
                self._left_to_warm_up -= 1
                return self._run(1)
            return self._replay() if self._made else self._check(self.cycle, self._capture)

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
        # A capture counts as Python does in a unit; the first replay does the rest of it.
        run = functools.partial(self._run, self.cycle)
        return self._make(0, run, self.replay_buffer.generator, self._stream).replay()

    def _replay(self) -> list[Losses]:
        losses = self._made[0].replay()
        self._count(0, self.cycle)
        return losses
