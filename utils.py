"""The replay buffer, and the few pieces that several policies share."""

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

LOG_STD_RANGE = (-5.0, 0.0)


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
        output_dim: size of the output, which is linear; None ends with the last hidden layer.
    """

    def __init__(self, input_dims: Sequence[int], hidden: Sequence[int], output_dim: int | None):
        super().__init__()
        self.first = ConcatLinear(input_dims, hidden[0])
        layers: list[nn.Module] = [nn.ReLU()]
        for size, following in itertools.pairwise(hidden):
            layers += [nn.Linear(size, following), nn.ReLU()]
        if output_dim is not None:
            layers.append(nn.Linear(hidden[-1], output_dim))
        self.rest = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.rest(self.first(*inputs))


class ValueFunction(MLP):
    """V(s): (..., S) -> (...)."""

    def __init__(self, state_dim: int, hidden: Sequence[int]):
        super().__init__([state_dim], hidden, 1)

    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state).squeeze(-1)


class TwinCritic(nn.Module):
    """Q1(s, a) and Q2(s, a): (..., S), (..., A) -> (2, ...)."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int]):
        super().__init__()
        self.q1 = MLP([state_dim, action_dim], hidden, 1)
        self.q2 = MLP([state_dim, action_dim], hidden, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.stack([self.q1(state, action), self.q2(state, action)]).squeeze(-1)


class LatentEmbedding(nn.Module):
    """How a latent z enters a policy: Linear(K -> state_dim), ReLU; (..., K) -> (..., S)."""

    def __init__(self, latent_dim: int, state_dim: int):
        super().__init__()
        self.linear = nn.Linear(latent_dim, state_dim)

    def forward(self, latent: Tensor) -> Tensor:
        return F.relu(self.linear(latent))


class GaussianActor(nn.Module):
    """A Normal over actions: mean = max_action tanh, log std softly clamped to [-5, 0].

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
        self.trunk = MLP(input_dims, hidden, None)
        self.mean = nn.Linear(hidden[-1], action_dim)
        self.log_std = nn.Linear(hidden[-1], action_dim)
        self.max_action = max_action

    def forward(self, *inputs: Tensor) -> Normal:
        features = self.trunk(*inputs)
        mean = self.max_action * self.mean(features).tanh()
        low, high = LOG_STD_RANGE
        log_std = low + (high - low) / 2 * (self.log_std(features).tanh().tanh() + 1)
        return Normal(mean, log_std.exp(), validate_args=False)


def log_prob(policy: Normal, action: Tensor) -> Tensor:
    """Log density of actions (..., A) under independent Normals, summed over A: (...)."""
    return policy.log_prob(action).sum(-1)


def td_loss(values: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each twin, (2, B) against (B,), summed over the twins."""
    return (values - target).square().mean(-1).sum()


def advantage_weight(advantage: Tensor, scale: float, weight_type: str = "") -> Tensor:
    """Weights of the policy's regression, from a batch's advantages (B,).

    Args:
        scale: alpha of the paper; 0 makes all weights 1.
        weight_type: "" or "adapt": exp(scale (A - max A) / (max A - min A)) over its batch mean;
            "clamp": exp(scale A) in [0, 100]; "raw": exp(scale (A - max A)) over its batch mean.
    """
    if weight_type == "clamp":
        return (scale * advantage).exp().clamp(max=100)
    below_best = advantage - advantage.max()
    if weight_type != "raw":
        # Equal advantages have no width; any positive one gives them equal weights.
        width = advantage.max() - advantage.min()
        below_best = below_best / width.clamp(min=torch.finfo(advantage.dtype).tiny)
    weight = (scale * below_best).exp()
    return weight / weight.mean()


def minimize(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step of an optimiser; no other parameter receives a gradient."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters)
    optimizer.step()


def adam(modules: Iterable[nn.Module], learning_rate: float) -> torch.optim.Adam:
    """Adam over the parameters of some networks."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def make_target(network: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def polyak_update(network: nn.Module, target: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau network."""
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)


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
        self.losses: dict[str, Tensor] = {}
        self.total_it = 0

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        """One train step; returns the critic loss, a 0-d tensor on the device."""
        raise NotImplementedError

    def act(self, state: Tensor) -> Tensor:
        """Actions of the deterministic policy that is evaluated: (n, S) -> (n, A)."""
        raise NotImplementedError

    @torch.no_grad()
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
