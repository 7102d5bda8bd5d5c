"""Train steps on a GPU, a whole unit of them at a time, as a CUDA graph."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from utils import Policy, ReplayBuffer

WARM_UP_UNITS = 3  # before a capture; they make the optimisers' state and the libraries' handles
# How far a captured unit may be from the same unit step by step: in a loss, relative to it, and in
# a network, relative to the length of the way that the unit has moved it.
LOSS_TOLERANCE = 1e-2
MOVE_TOLERANCE = 0.1

Losses = dict[str, Tensor]
State = tuple[dict[str, Any], list[Tensor]]  # of the policy, and of the generators


class CaptureError(Exception):
    """A policy's train steps cannot become a CUDA graph; the message says why, in one line."""


class CudaUnit:
    """A unit of train steps as a CUDA graph.

    Args:
        run: does what Python does in a unit, and issues its kernels.
        generator: draws the batches.

    Raises:
        CaptureError: no graph can be made of it.
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
            raise CaptureError(str(error).split("\n", 1)[0]) from error

    def replay(self) -> list[Losses]:
        """Run the kernels, nothing of Python's; returns the losses of each step."""
        self._graph.replay()
        return [{name: loss.clone() for name, loss in step.items()} for step in self._losses]


class CapturedTraining:
    """Runs train steps in units, which start together as one CUDA graph.

    A unit is `policy_freq` steps, sampling included, the last of which updates the policy. Where
    no whole unit fits, the steps run one by one.

    The graph checks itself: its first unit also runs step by step, from the same state and draws.
    If the two differ, or there can be no graph, all steps run one by one, and `note` gets a line.
    """

    def __init__(
        self,
        policy: Policy,
        replay_buffer: ReplayBuffer,
        batch_size: int,
        note: Callable[[str], None] = print,
        make_unit: Callable[..., Any] = CudaUnit,
    ):
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.batch_size = batch_size
        self.note = note
        self.unit = getattr(policy.hp, "policy_freq", 1)
        self._make_unit = make_unit
        self._left_to_warm_up = WARM_UP_UNITS * self.unit
        self._stream = torch.cuda.Stream(policy.device) if policy.device.type == "cuda" else None
        self._captured: Any = None
        self._is_off = False

    def __call__(self, most: int) -> list[Losses]:
        """Train one step, or several but at most `most`; returns the losses of each."""
        with self._on_own_stream():
            is_aligned = self.policy.total_it % self.unit == 0
            if self._is_off or self._left_to_warm_up > 0 or not is_aligned or most < self.unit:
                self._left_to_warm_up -= 1
                return self._run(1)
            return self._replay() if self._captured else self._check_first_unit()

    def _run(self, steps: int) -> list[Losses]:
        return [self.policy.train(self.replay_buffer, self.batch_size) for _ in range(steps)]

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

    def _check_first_unit(self) -> list[Losses]:
        """Run a unit step by step, then as a graph; keep the graph's if they agree."""
        make_capturable(self.policy)
        before = self._state()
        expected = self._run(self.unit)
        after = self._state()
        self._restore(before)
        try:
            losses = self._capture()
            problem = difference(losses, expected) or self._difference(before, after)
        except CaptureError as error:
            losses, problem = [], f"the capture failed: {error}"
        if problem is None:
            return losses
        self._captured, self._is_off = None, True
        self._restore(after)
        name = type(self.policy).__name__
        self.note(f"note: {name} trains without CUDA graphs, step by step ({problem})")
        return expected

    def _state(self) -> State:
        draws = [generator.get_state().clone() for generator in self._generators()]
        return copy.deepcopy(self.policy.state_dict()), draws

    def _restore(self, state: State) -> None:
        policy_state, draws = state
        self.policy.load_state_dict(copy.deepcopy(policy_state))
        for generator, draw in zip(self._generators(), draws, strict=True):
            generator.set_state(draw)
        make_capturable(self.policy)

    def _generators(self) -> list[torch.Generator]:
        """The one that draws batches, and the device's own, which policies draw noise from."""
        device = self.policy.device
        if device.type != "cuda":
            return [self.replay_buffer.generator, torch.default_generator]
        index = torch.cuda.current_device() if device.index is None else device.index
        return [self.replay_buffer.generator, torch.cuda.default_generators[index]]

    def _capture(self) -> list[Losses]:
        # A capture does what Python does in a unit, counting, and the first replay the rest.
        before = {schedule: schedule.last_epoch for schedule in schedules_of(self.policy)}
        run = functools.partial(self._run, self.unit)
        self._captured = self._make_unit(run, self.replay_buffer.generator, self._stream)
        self._updates_of_schedules = {s: s.last_epoch - epoch for s, epoch in before.items()}
        return self._captured.replay()

    def _replay(self) -> list[Losses]:
        losses = self._captured.replay()
        self.policy.total_it += self.unit
        for schedule, updates in self._updates_of_schedules.items():
            for _ in range(updates):  # the rate that the graph sets is always the first unit's
                schedule.step()
        return losses

    def _difference(self, before: State, after: State) -> str | None:
        """What of the policy a captured unit has left elsewhere than the steps one by one."""
        now = self.policy.state_dict()
        for name in self.policy.networks():
            start, expected = _flat(before[0][name]), _flat(after[0][name])
            moved = torch.linalg.vector_norm(expected - start)
            missed = torch.linalg.vector_norm(_flat(now[name]) - expected)
            if not missed <= MOVE_TOLERANCE * moved:
                return f"{name} ends elsewhere: {missed:.2g} off after a way of {moved:.2g}"
        if now["total_it"] != after[0]["total_it"]:
            return f"{now['total_it']} steps were counted, not {after[0]['total_it']}"
        return None


def _flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten().double() for value in state.values()])


def difference(losses: list[Losses], expected: list[Losses]) -> str | None:
    """The first loss of a unit that is not the one of the steps one by one, in words."""
    for number, (step, right) in enumerate(zip(losses, expected, strict=True), 1):
        if step.keys() != right.keys():
            return f"step {number} of the unit has other losses"
        for name, loss in step.items():
            if not torch.allclose(loss, right[name], rtol=LOSS_TOLERANCE, atol=1e-4):
                return f"{name} loss {loss.item():.6g} instead of {right[name].item():.6g}"
    return None


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
