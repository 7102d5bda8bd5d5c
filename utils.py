"""The replay buffer, and the few pieces that several policies share."""

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Normal
from torch.func import functional_call

LOG_STD_RANGE = (-5.0, 0.0)
FEW_MULTIPLICATIONS = 400_000  # of a product that takes less time than oneDNN's call itself


class Batch(NamedTuple):
    """Transitions: states (B, S), actions (B, A), next states (B, S), rewards and not_done (B,)."""

    state: Tensor
    action: Tensor
    next_state: Tensor
    reward: Tensor
    not_done: Tensor


class ReplayBuffer:
    """A dataset of transitions on a device, sampled uniformly with a generator of its own.

    One float32 row holds one transition, so that a batch is one gather.

    Args:
        states, next_states: (N, S).
        actions: (N, A).
        rewards: (N,).
        terminals: (N,) 1 where the episode ended (not where it was cut).
        device: where the data lives and the batches are made.
        seed: of the sampling.
    """

    def __init__(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        next_states: np.ndarray,
        rewards: np.ndarray,
        terminals: np.ndarray,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ):
        state_dim, action_dim = states.shape[1], actions.shape[1]
        self._sizes = [state_dim, action_dim, state_dim, 1, 1]
        columns = (states, actions, next_states, rewards[:, None], 1 - terminals[:, None])
        self.rows = torch.empty(len(states), sum(self._sizes), device=device)
        for part, column in zip(self.rows.split(self._sizes, dim=1), columns, strict=True):
            part.copy_(torch.as_tensor(column))
        self.generator = torch.Generator(device).manual_seed(seed)

    def __len__(self) -> int:
        return len(self.rows)

    def normalize_states(self, epsilon: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Make states and next states (s - mean) / (std + epsilon), over the whole dataset.

        A coordinate that never changes has no std and becomes 0, up to the rounding of its mean.

        Returns:
            mean and std + epsilon, (S,) float32 each, to treat observations alike in evaluation.
        """
        state, _, next_state, _, _ = self.rows.split(self._sizes, dim=1)
        std, mean = torch.std_mean(state, dim=0, correction=0)
        std = std + epsilon
        for part in (state, next_state):
            part.sub_(mean).div_(std)
        return mean.cpu().numpy(), std.cpu().numpy()

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement."""
        device = self.rows.device
        index = torch.randint(len(self), (batch_size,), generator=self.generator, device=device)
        state, action, next_state, reward, not_done = self.rows[index].split(self._sizes, dim=1)
        return Batch(state, action, next_state, reward.squeeze(1), not_done.squeeze(1))


class ConcatLinear(nn.Linear):
    """nn.Linear on the concatenation of several inputs, written as a sum over the inputs.

    The inputs may broadcast against each other: states (B, S) with K latents (K, 1, L) give
    (K, B, output), with the states multiplied once and not K times.
    """

    def __init__(self, input_dims: Sequence[int], output_dim: int):
        super().__init__(sum(input_dims), output_dim)
        self.input_dims = list(input_dims)

    def forward(self, *inputs: Tensor) -> Tensor:
        if len(inputs) == 1:  # concatenated already
            return F.linear(inputs[0], self.weight, self.bias)
        first, *rest = self.weight.split(self.input_dims, dim=1)
        output = F.linear(inputs[0], first, self.bias)
        for part, weight in zip(inputs[1:], rest, strict=True):
            output = output + F.linear(part, weight)
        return output


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the concatenation of one or more inputs.

    Args:
        input_dims: size of each input.
        hidden: sizes of the hidden layers.
        output_dim: size of the output, which is linear.
    """

    def __init__(self, input_dims: Sequence[int], hidden: Sequence[int], output_dim: int):
        super().__init__()
        self.first = ConcatLinear(input_dims, hidden[0])
        layers: list[nn.Module] = [nn.ReLU(inplace=True)]
        for size, following in itertools.pairwise(hidden):
            layers += [nn.Linear(size, following), nn.ReLU(inplace=True)]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden[-1], output_dim))
        self._linears = [self.first, *(one for one in self.rest if isinstance(one, nn.Linear))]
        # Whoever edits the layers above gets PyTorch's path, which takes any.
        self._is_plain = [type(one) for one in self.rest] == [nn.ReLU, nn.Linear] * len(hidden)

    def forward(self, *inputs: Tensor) -> Tensor:
        if self._is_plain and is_onednn(inputs[0]):
            return self._forward_onednn(inputs)
        return self.rest(self.first(*inputs))

    def _forward_onednn(self, inputs: Sequence[Tensor]) -> Tensor:
        """As `self.rest(self.first(*inputs))`, in half the time on some CPUs."""
        linears = self._linears
        if all(part.shape[:-1] == inputs[0].shape[:-1] for part in inputs):
            hidden = torch.cat(inputs, -1) if len(inputs) > 1 else inputs[0].contiguous()
        else:
            hidden = self.first(*inputs).relu_()
            linears = linears[1:]
        parameters = [p for layer in linears for p in (layer.weight, layer.bias)]
        if torch.is_grad_enabled():
            return OneDNNLayers.apply(hidden, *parameters)
        return onednn_layers(hidden, parameters)[-1]


# A CPU's float32 matrix products. F.linear takes MKL's, which on AMD's processors need twice the
# time of oneDNN's (benchmarks/README.md).


def is_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies such a tensor (not under `torch.backends.mkldnn.flags(False)`)."""
    if torch.compiler.is_compiling():  # it chooses by itself
        return False
    is_cpu_float = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return is_cpu_float and torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()


def fast_linear(input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool = False) -> Tensor:
    """F.linear, then a ReLU if asked to: (..., I), (O, I), (O,) -> (..., O). Has no gradient."""
    if input.numel() // input.shape[-1] * weight.numel() <= FEW_MULTIPLICATIONS:
        output = F.linear(input, weight, bias)
        return output.relu_() if relu else output
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._linear_pointwise(
        without_gaps(input), without_gaps(weight), bias, activation, [], ""
    )


def without_gaps(matrix: Tensor) -> Tensor:
    """oneDNN takes a thousand times as long for a matrix with gaps, as columns of a batch have."""
    is_dense = matrix.is_contiguous() or matrix.mT.is_contiguous()
    return matrix if is_dense else matrix.contiguous()


def onednn_layers(input: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The input and the outputs of all layers; `parameters` alternates weights and biases."""
    outputs = [input]
    for i in range(0, len(parameters), 2):
        is_hidden = i + 2 < len(parameters)
        input = fast_linear(input, parameters[i], parameters[i + 1], relu=is_hidden)
        outputs.append(input)
    return outputs


class OneDNNLayers(torch.autograd.Function):
    """The last of `onednn_layers`, with its gradients."""

    @staticmethod
    def forward(ctx, input: Tensor, *parameters: Tensor) -> Tensor:
        outputs = onednn_layers(input, parameters)
        ctx.save_for_backward(*outputs, *parameters[::2])
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 2
        outputs, weights = ctx.saved_tensors[: count + 1], ctx.saved_tensors[count + 1 :]
        needs_input, *needs_parameter = ctx.needs_input_grad
        by_parameter: list[Tensor | None] = [None] * (2 * count)
        for i in reversed(range(count)):
            if i + 1 < count:
                gradient = torch.ops.aten.threshold_backward(gradient, outputs[i + 1], 0)
            rows = gradient.flatten(0, -2)
            if needs_parameter[2 * i]:
                by_parameter[2 * i] = fast_linear(rows.t(), outputs[i].flatten(0, -2).t(), None)
                by_parameter[2 * i + 1] = rows.sum(0)
            if i or needs_input:
                gradient = fast_linear(gradient, weights[i].t(), None)
        return gradient if needs_input else None, *by_parameter


class ValueFunction(MLP):
    """V(s): (..., S) -> (...)."""

    def __init__(self, state_dim: int, hidden: Sequence[int]):
        super().__init__([state_dim], hidden, 1)

    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state).squeeze(-1)


class TwinCritic(nn.Module):
    """Q1(s, a) and Q2(s, a): (..., S), (..., A) -> twice (...)."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.q1 = MLP([state_dim, action_dim], hidden, 1)
        self.q2 = MLP([state_dim, action_dim], hidden, 1)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [state, action]
        if state.shape[:-1] == action.shape[:-1]:
            inputs = [torch.cat(inputs, -1)]  # once for both
        return self.q1(*inputs).squeeze(-1), self.q2(*inputs).squeeze(-1)


class LatentEmbedding(nn.Module):
    """How a latent z enters a policy: Linear(K -> state_dim), ReLU; (..., K) -> (..., S)."""

    def __init__(self, latent_dim: int, state_dim: int):
        super().__init__()
        self.linear = nn.Linear(latent_dim, state_dim)

    def forward(self, latent: Tensor) -> Tensor:
        return F.relu(self.linear(latent))


class GaussianActor(nn.Module):
    """A Normal over actions: mean = max_action tanh, log std softly clamped to [-5, 0].

    The two heads are the halves of one layer: one product, not two.

    Args:
        input_dims: sizes of the inputs: the state, and a latent's embedding if there is one.
        action_dim: A.
        hidden: sizes of the hidden layers.
        max_action: bound of the mean.
    """

    def __init__(
        self, input_dims: Sequence[int], action_dim: int, hidden: Sequence[int], max_action: float
    ):
        super().__init__()
        self.network = MLP(input_dims, hidden, 2 * action_dim)
        self.max_action = max_action

    def forward(self, *inputs: Tensor) -> Normal:
        mean, log_std = self.network(*inputs).chunk(2, dim=-1)
        low, high = LOG_STD_RANGE
        log_std = (low + high) / 2 + (high - low) / 2 * log_std.tanh().tanh()
        return Normal(self.max_action * mean.tanh(), log_std.exp(), validate_args=False)


def sample(policy: Normal, shape: Sequence[int] = ()) -> Tensor:
    """Actions (*shape, ..., A) of Normals over (..., A), for use where nothing is learned.

    `Normal.sample` would read the deviations back to check them, and so wait for the device.
    """
    noise = torch.randn(*shape, *policy.mean.shape, device=policy.mean.device)
    return torch.addcmul(policy.mean, policy.stddev, noise)


def log_prob(policy: Normal, action: Tensor) -> Tensor:
    """Log density of actions (..., A) under independent Normals, summed over A: (...)."""
    error = (action - policy.mean) / policy.stddev
    constant = action.shape[-1] / 2 * math.log(2 * math.pi)
    return -constant - (error.square() / 2 + policy.stddev.log()).sum(-1)


def td_loss(values: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Mean squared error of each twin, (B,) against (B,), summed over the twins."""
    first, second = values
    return F.mse_loss(first, target) + F.mse_loss(second, target)


def td_target(batch: Batch, next_value: Tensor, discount: float) -> Tensor:
    """r + discount not_done V(s'): (B,)."""
    return torch.addcmul(batch.reward, batch.not_done, next_value, value=discount)


def advantage_weight(advantage: Tensor, scale: float, weight_type: str = "") -> Tensor:
    """Weights of the policy's regression, from a batch's advantages (B,).

    Args:
        scale: alpha of the paper; 0 makes all weights 1.
        weight_type: "" or "adapt": exp(scale (A - max A) / (max A - min A)) over its batch mean;
            "clamp": exp(scale A) in [0, 100]; "raw": exp(scale (A - max A)) over its batch mean.
    """
    if weight_type == "clamp":
        return (scale * advantage).exp().clamp(max=100)
    lowest, highest = advantage.aminmax()
    below_best = advantage - highest
    if weight_type != "raw":
        # Equal advantages have no width; any positive one gives them equal weights.
        width = highest - lowest
        below_best = below_best / width.clamp(min=torch.finfo(advantage.dtype).tiny)
    weight = (scale * below_best).exp()
    return weight / weight.mean()


def minimize(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of an optimiser; no other parameter receives a gradient."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def adam(modules: Iterable[nn.Module], learning_rate: float) -> torch.optim.Adam:
    """Adam over the parameters of some networks."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def make_target(network: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(network).requires_grad_(False)


def call_frozen(network: nn.Module, *inputs: Tensor) -> Tensor:
    """network(*inputs), through which gradients reach the inputs and not the parameters."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return functional_call(network, parameters, inputs)


@torch.no_grad()
def polyak_update(network: nn.Module, target: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau network."""
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB of freed memory, so that no step asks the kernel for it anew.

    glibc returns freed memory beyond twice the largest block so far that it mapped and freed, and
    adapts to blocks of up to 32 MB (mallopt(3), M_MMAP_THRESHOLD). A block of nearly that size,
    never touched, costs nothing; other C libraries do not mind it.
    """
    torch.empty(32_000_000, dtype=torch.uint8)


class Policy:
    """What the loop expects of a policy, and what all policies do alike.

    A policy is made with `(state_dim, action_dim, max_action, hyperparameters, device)`. Its
    networks, targets, optimisers and schedules are attributes; `state_dict` finds them there.

    Attributes:
        losses: the losses of the last train step by network, 0-d tensors on the device.
        total_it: train steps so far.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        keep_freed_memory()
        self.losses: dict[str, Tensor] = {}
        self.total_it = 0

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        """One train step; returns the critic loss, a 0-d tensor on the device."""
        raise NotImplementedError

    def act(self, state: Tensor) -> Tensor:
        """Actions of the deterministic policy that is evaluated: (n, S) -> (n, A)."""
        raise NotImplementedError

    @torch.inference_mode()  # a twentieth faster than no_grad for the few states of an evaluation
    def select_action(self, states: np.ndarray) -> np.ndarray:
        """(n, S) normalised states -> (n, A) float32 actions."""
        return self.act(self.tensor(states)).cpu().numpy()

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array as float32 on the policy's device."""
        return torch.as_tensor(array, dtype=torch.float32).to(self.device)

    def networks(self) -> dict[str, nn.Module]:
        """All networks and targets, by name."""
        return {name: part for name, part in vars(self).items() if isinstance(part, nn.Module)}

    def _parts(self) -> dict:
        return {name: part for name, part in vars(self).items() if hasattr(part, "state_dict")}

    def state_dict(self) -> dict:
        """Everything a run needs to go on: networks, targets, optimisers, schedules, counter."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return parts | {"total_it": self.total_it}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another policy or of other sizes.
        """
        parts = self._parts()
        if state.keys() != {*parts, "total_it"}:
            raise KeyError(f"a state of {sorted(state)} cannot be loaded into {sorted(parts)}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.total_it = state["total_it"]
