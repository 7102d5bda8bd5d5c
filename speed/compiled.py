"""Train steps on a CPU as compiled programs, which need a C++ compiler.

A program holds all of a step: losses, gradients, Adam and target networks. It calls the library
that `speed.products` chooses for the matrix products; few loops over memory lie between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speed import products
from speed.checked import (
    CheckedTraining,
    FasterStepsError,
    Losses,
    State,
    first_line,
    optimizers_of,
)

if TYPE_CHECKING:
    from utils import Batch, Policy

# PyTorch's own draws; no check of the sizes, which never change.
OPTIONS = {"fallback_random": True, "size_asserts": False}


class CompiledStep:
    """A train step as a program.

    Args:
        train: takes a step on a batch. It is run once, with all its effects.
        tensors: all that a step reads and changes besides the batch: those that `train` uses.
        batch: an example.

    Raises:
        FasterStepsError: no program can be made of it.
    """

    def __init__(self, train: Callable[[Batch], Losses], tensors: list[Tensor], batch: Batch):
        def step(tensors: list[Tensor], batch: Batch) -> Losses:
            return train(batch)  # which knows the tensors

        try:
            # Not at the top, where --help would wait for them.
            import torch._inductor
            from torch.fx.experimental.proxy_tensor import make_fx

            graph = make_fx(step, decomposition_table=_replacements())(tensors, batch)
            for node in graph.graph.nodes:
                node.meta.clear()  # the compiler works out shapes itself, and refuses these
            inputs: list[Any] = [*detached(tensors), *batch]
            with torch.no_grad():
                self._program = torch._inductor.compile(graph, inputs, OPTIONS)
        except Exception as error:  # whatever fails in the compiler, Python trains as well
            raise FasterStepsError(f"it cannot be compiled: {first_line(error)}") from error

    def __call__(self, tensors: list[Tensor], batch: Batch) -> Losses:
        """Take a step: change the tensors, which need no gradients, and return the losses."""
        return self._program(*tensors, *batch)


def detached(tensors: list[Tensor]) -> list[Tensor]:
    """The same memory without gradients."""
    return [tensor.detach() for tensor in tensors]


class CompiledTraining(CheckedTraining):
    """Runs train steps as programs, one for each of the `policy_freq` steps of a cycle.

    The first cycle of a run goes step by step, as it makes the optimisers' states.
    """

    way = "compiled steps"
    default_make_faster = CompiledStep

    def __call__(self, most: int) -> list[Losses]:
        """Train one step; returns its losses."""
        if self._is_off or self.policy.total_it < self.cycle:
            return self._run(1)
        place = self.policy.total_it % self.cycle
        if place in self._made:
            return [self._step(place)]
        return self._check(1, lambda before: [self._first_step(place, before)])

    def _first_step(self, place: int, before: State) -> Losses:
        tensors = tensors_of(self.policy)
        batch = self.replay_buffer.sample(self.batch_size)
        self._make(place, self.policy.train_on, tensors, batch)
        if len(tensors_of(self.policy)) != len(tensors):
            raise FasterStepsError("a step makes tensors that the next one needs")
        self._restore(before)
        # Every check puts the optimisers' states elsewhere.
        self._tensors = detached(tensors_of(self.policy))
        return self._step(place)

    def _step(self, place: int) -> Losses:
        losses = self._made[place](self._tensors, self.replay_buffer.sample(self.batch_size))
        self._count(place, 1)
        return losses


def tensors_of(policy: Policy) -> list[Tensor]:
    """All tensors that a policy's train step changes, each once and always in the same order."""
    networks = policy.networks().values()
    tensors = [one for part in networks for one in (*part.parameters(), *part.buffers())]
    for optimizer in optimizers_of(policy):
        for group in optimizer.param_groups:
            states = [optimizer.state[parameter] for parameter in group["params"]]
            values = [group["lr"], *(state[key] for state in states for key in sorted(state))]
            tensors += [value for value in values if isinstance(value, Tensor)]
    return list({id(tensor): tensor for tensor in tensors}.values())


# Operators that the compiler calls as they are

torch.library.define(
    "dmpo::linear", "(Tensor input, Tensor weight, Tensor? bias, str activation) -> Tensor"
)
torch.library.define(
    "dmpo::bias_corrections", "(Tensor[] steps, float beta1, float beta2) -> Tensor"
)


@torch.library.impl("dmpo::linear", "CPU")
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, activation, [], "")


@torch.library.register_fake("dmpo::linear")
def _(input: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return input.new_empty(*input.shape[:-1], len(weight))


@torch.library.impl("dmpo::bias_corrections", "CPU")
def _bias_corrections(steps: list[Tensor], beta1: float, beta2: float) -> Tensor:
    """1 - beta1^t and sqrt(1 - beta2^t) of each parameter's t: (n, 2).

    In float64, as in Adam's kernel. The compiler would repeat the powers in its loop over the
    parameter, for every few elements.
    """
    count = torch.stack(steps).double()
    return torch.stack([1 - beta1**count, (1 - beta2**count).sqrt()], 1).float()


@torch.library.register_fake("dmpo::bias_corrections")
def _(steps: list[Tensor], beta1: float, beta2: float) -> Tensor:
    return steps[0].new_empty(len(steps), 2)


def _replacements() -> dict[Any, Callable]:
    """Replaces operators that the compiler cannot take in the trace of a step."""
    adam = torch.ops.aten._fused_adam_
    table: dict[Any, Callable] = {adam.default: _fused_adam, adam.tensor_lr: _fused_adam}
    if products.has_onednn():
        table[torch.ops.mkldnn._linear_pointwise.default] = _linear_of_a_trace
    return table


def _linear_of_a_trace(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, *_: Any
) -> Tensor:
    # oneDNN copies an input that is transposed. In the gradient of a weight both are: let the
    # narrower one be copied, by the compiler, in the loop that makes it.
    if bias is None and len(weight) < len(input) and not input.is_contiguous():
        return torch.ops.dmpo.linear(weight.contiguous(), input, None, activation).t()
    return torch.ops.dmpo.linear(input.contiguous(), weight, bias, activation)


@torch.no_grad()
def _fused_adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    max_squares: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    **_: None,
) -> None:
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1)."""
    if weight_decay or amsgrad or maximize:
        raise RuntimeError("Adam has weight decay, amsgrad or maximize")
    corrections = torch.ops.dmpo.bias_corrections(steps, beta1, beta2)
    for i, gradient in enumerate(gradients):
        averages[i].lerp_(gradient, 1 - beta1)
        squares[i].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        width = squares[i].sqrt() / corrections[i, 1] + eps
        parameters[i].sub_(lr / corrections[i, 0] * averages[i] / width)
