"""Shared by the faster train steps: they check themselves against the steps that they replace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from utils import Policy, ReplayBuffer

# The steps are tried again this many cycles later. A prime, so that other remainders change.
FAR = 1_000_003
# How far faster steps may be from the same steps one by one: in a loss, relative to it, and in a
# network, relative to the distance that the steps have moved it.
LOSS_TOLERANCE = 1e-2
MOVE_TOLERANCE = 0.1

Losses = dict[str, Tensor]
State = tuple[dict[str, Any], list[Tensor]]  # of the policy, and of the generators


class FasterStepsError(Exception):
    """A policy's train steps cannot be made faster; the message says why, in one line."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a note."""
    return str(error).strip().split("\n", 1)[0]


class CheckedTraining:
    """Base class of the ways to train faster.

    The first faster steps also run one by one, from the same state and draws. If the results
    differ, or this machine or policy does not allow faster steps, all steps run one by one, and
    `note` gets a line that says why.

    Args:
        policy: to train.
        replay_buffer: to draw batches from.
        batch_size: transitions in a batch.
        note: prints a line.
        make_faster: makes the faster steps (default: the class's own).
    """

    way: ClassVar[str]  # for the line: "CUDA graphs"
    default_make_faster: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        policy: Policy,
        replay_buffer: ReplayBuffer,
        batch_size: int,
        note: Callable[[str], None] = print,
        make_faster: Callable[..., Any] | None = None,
    ):
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.batch_size = batch_size
        self.note = note
        self._make_faster = make_faster or self.default_make_faster
        self.cycle = getattr(policy.hp, "policy_freq", 1)
        self._is_off = False
        # Both by their place in the cycle.
        self._made: dict[int, Any] = {}
        self._updates: dict[int, dict[LRScheduler, int]] = {}

    def __call__(self, most: int) -> list[Losses]:
        """Train one step, or several but at most `most`; returns the losses of each."""
        raise NotImplementedError

    def _run(self, steps: int) -> list[Losses]:
        return [self.policy.train(self.replay_buffer, self.batch_size) for _ in range(steps)]

    def _make(self, place: int, *arguments: Any) -> Any:
        """Make faster steps; Python runs them meanwhile, and counts."""
        before = {schedule: schedule.last_epoch for schedule in schedules_of(self.policy)}
        self._made[place] = self._make_faster(*arguments)
        self._updates[place] = {one: one.last_epoch - epoch for one, epoch in before.items()}
        return self._made[place]

    def _count(self, place: int, steps: int) -> None:
        """Count what Python does not count in faster steps."""
        self.policy.total_it += steps
        for schedule, updates in self._updates[place].items():
            if not updates:
                continue
            # The rate that faster steps have set is that of their first time.
            groups, rates = schedule.optimizer.param_groups, schedule.get_last_lr()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"].fill_(rate)
            for _ in range(updates):
                schedule.step()

    def _check(self, steps: int, run_faster: Callable[[State], list[Losses]]) -> list[Losses]:
        """Train some steps both ways, and keep the faster one's results if they agree.

        Args:
            run_faster: gets the state that the steps start from.
        """
        make_capturable(self.policy)
        before = self._state()
        expected = self._run(steps)
        after = self._state()
        losses: list[Losses] = []
        problem = self._dependence_on_the_count(before, after, expected)
        if problem is None:
            self._restore(before)
            try:
                losses = run_faster(before)
                problem = difference(losses, expected) or self._difference(before, after)
            except FasterStepsError as error:
                problem = str(error)
        if problem is None:
            return losses
        self._is_off = True
        self._made.clear()  # and their memory
        self._restore(after)
        name = type(self.policy).__name__
        self.note(f"note: {name} trains without {self.way}, step by step ({problem})")
        return expected

    def _dependence_on_the_count(
        self, before: State, after: State, expected: list[Losses]
    ) -> str | None:
        """Whether the same steps act differently much later, in words.

        Faster steps freeze Python's numbers, including `total_it`, so a step may depend only on its
        place in the cycle.
        """
        self._restore(before)
        self.policy.total_it += FAR * self.cycle
        losses = self._run(len(expected))
        self.policy.total_it -= FAR * self.cycle
        problem = difference(losses, expected) or self._difference(before, after)
        return problem and f"a step depends on total_it other than as total_it % {self.cycle}"

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

    def _difference(self, before: State, after: State) -> str | None:
        """The parts of the policy that differ after the faster steps."""
        now = self.policy.state_dict()
        for name, network in self.policy.networks().items():
            if not network.state_dict():
                continue
            start, expected = _flat(before[0][name]), _flat(after[0][name])
            moved = torch.linalg.vector_norm(expected - start)
            missed = torch.linalg.vector_norm(_flat(now[name]) - expected)
            if not missed <= MOVE_TOLERANCE * moved:
                return f"{name} differs: it is {missed:.2g} off after moving {moved:.2g}"
        if now["total_it"] != after[0]["total_it"]:
            return f"{now['total_it']} steps were counted, not {after[0]['total_it']}"
        return None


def _flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten().double() for value in state.values()])


def difference(losses: list[Losses], expected: list[Losses]) -> str | None:
    """The first loss that is not the one of the steps one by one, in words."""
    for number, (step, right) in enumerate(zip(losses, expected, strict=True), 1):
        if step.keys() != right.keys():
            return f"step {number} has different losses"
        for name, loss in step.items():
            if not torch.allclose(loss, right[name], rtol=LOSS_TOLERANCE, atol=1e-4):
                return f"{name} loss {loss.item():.6g} instead of {right[name].item():.6g}"
    return None


def optimizers_of(policy: Policy) -> list[Optimizer]:
    """The optimisers of a policy."""
    return [part for part in policy.parts().values() if isinstance(part, Optimizer)]


def schedules_of(policy: Policy) -> list[LRScheduler]:
    """The schedules of a policy's learning rates."""
    return [part for part in policy.parts().values() if isinstance(part, LRScheduler)]


def make_capturable(policy: Policy) -> None:
    """Let a policy's optimisers run without Python: learning rates that change are tensors."""
    for optimizer in optimizers_of(policy):
        for group in optimizer.param_groups:
            group["capturable"] = True
    for schedule in schedules_of(policy):
        for group in schedule.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], device=policy.device)
