"""The replay buffer, pieces of networks and losses that policies share, and their base class."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import functional_call
from torch.optim import Optimizer

from speed import products
from speed.memory import keep_freed_memory

LOG_STD_RANGE = (-5.0, 0.0)
GLOBAL_LOG_STD_RANGE = (-5.0, 2.0)  # of IQL with one log std for all states


class Range(NamedTuple):
    """Values that an option accepts: at least `low` (more, if `open_low`), at most `high`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False


# Types of hyperparameters. The command line checks them.
Count = Annotated[int, Range(1, 1_000_000)]
Fraction = Annotated[float, Range(0, 1)]
HalfFraction = Annotated[float, Range(0, 0.5)]
PositiveFraction = Annotated[float, Range(0, 1, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open_low=True)]
WeightType = Literal["", "adapt", "clamp", "raw"]
LogStd = Literal["state", "global", "release"]

Network = TypeVar("Network", bound=nn.Module)


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
        terminals: (N,) 1 where the episode ended (not where a time limit cut it).
        device: holds the data and the batches.
        seed: for sampling.
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
        """Replace states and next states by (s - mean) / (std + epsilon), over the whole dataset.

        A constant coordinate has a std of 0 and becomes 0, up to the rounding of its mean.

        Returns:
            mean and std + epsilon, (S,) float32 each, for the observations of an evaluation.
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
        return self._batch(index)

    def fixed_sample(self, size: int, seed: int) -> Batch:
        """Transitions drawn with replacement by a generator of their own: always the same."""
        generator = torch.Generator().manual_seed(seed)
        index = torch.randint(len(self), (size,), generator=generator)
        return self._batch(index.to(self.rows.device))

    def _batch(self, index: Tensor) -> Batch:
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
        layer_norm: a LayerNorm stands before each ReLU.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        hidden: Sequence[int],
        output_dim: int,
        layer_norm: bool = False,
    ):
        super().__init__()
        self.first = ConcatLinear(input_dims, hidden[0])
        layers = _activation(hidden[0], layer_norm)
        for size, following in itertools.pairwise(hidden):
            layers += [nn.Linear(size, following), *_activation(following, layer_norm)]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden[-1], output_dim))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(..., I) each -> (..., output_dim)."""
        if products.applies_to(inputs[0]) and self._is_plain():
            linears = [one for one in (self.first, *self.rest) if isinstance(one, nn.Linear)]
            return products.mlp(linears, inputs)
        return self.rest(self.first(*inputs))

    def _is_plain(self) -> bool:
        """Whether nobody has put other layers or hooks there: PyTorch runs those."""
        rest = list(self.rest)
        if [type(one) for one in rest] != [nn.ReLU, nn.Linear] * (len(rest) // 2):
            return False
        return not any(map(_has_hooks, (self.first, self.rest, *rest)))


def _has_hooks(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _activation(size: int, layer_norm: bool) -> list[nn.Module]:
    norm = [nn.LayerNorm(size)] if layer_norm else []
    return [*norm, nn.ReLU(inplace=True)]


class ValueFunction(MLP):
    """V(s): (..., S) -> (...)."""

    def __init__(self, state_dim: int, hidden: Sequence[int]):
        super().__init__([state_dim], hidden, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs).squeeze(-1)


class TwinCritic(nn.Module):
    """Q1(s, a) and Q2(s, a): (..., S), (..., A) -> twice (...)."""

    def __init__(
        self, state_dim: int, action_dim: int, hidden: Sequence[int], layer_norm: bool = False
    ):
        super().__init__()
        self.q1 = MLP([state_dim, action_dim], hidden, 1, layer_norm)
        self.q2 = MLP([state_dim, action_dim], hidden, 1, layer_norm)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [state, action]
        if state.shape[:-1] == action.shape[:-1]:
            inputs = [torch.cat(inputs, -1)]  # once for both
        return self.q1(*inputs).squeeze(-1), self.q2(*inputs).squeeze(-1)


class LatentEmbedding(nn.Module):
    """Embeds a latent z for a policy: Linear(K -> state_dim), ReLU; (..., K) -> (..., S)."""

    def __init__(self, latent_dim: int, state_dim: int):
        super().__init__()
        self.linear = nn.Linear(latent_dim, state_dim)

    def forward(self, latent: Tensor) -> Tensor:
        return F.relu(self.linear(latent))


class GaussianActor(nn.Module):
    """A Normal over actions: mean = max_action tanh, log std softly clamped to a range.

    The two heads are the halves of one layer: one product, not two.

    Args:
        input_dims: sizes of the inputs: the state, and a latent's embedding if there is one.
        action_dim: A.
        hidden: sizes of the hidden layers.
        max_action: bound of the mean.
        log_std: "state": of each state, in [-4.4, -0.6]; "global": one for all states, in [-5, 2]
            and -1.5 at first (IQL's own code has one too, which is clipped and 0 at first);
            "release": of each state, clamped twice, as the authors' release does for IQL, which
            makes it nearly constant.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        action_dim: int,
        hidden: Sequence[int],
        max_action: float,
        log_std: LogStd = "state",
    ):
        super().__init__()
        heads = 1 if log_std == "global" else 2
        self.network = MLP(input_dims, hidden, heads * action_dim)
        self.max_action = max_action
        self.kind = log_std
        if log_std == "global":
            self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, *inputs: Tensor) -> Normal:
        output = self.network(*inputs)
        if self.kind == "global":
            log_std = _soft_clamp(self.log_std / 2, GLOBAL_LOG_STD_RANGE)
            mean, log_std = output, log_std.expand_as(output)
        else:
            mean, head = output.chunk(2, dim=-1)
            log_std = _soft_clamp(head.tanh(), LOG_STD_RANGE)
        if self.kind == "release":
            log_std = _soft_clamp(log_std, LOG_STD_RANGE)
        return Normal(self.max_action * mean.tanh(), log_std.exp(), validate_args=False)


def _soft_clamp(value: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return (low + high) / 2 + (high - low) / 2 * value.tanh()


@torch.no_grad()
def sample(policy: Normal, shape: Sequence[int] = ()) -> Tensor:
    """Actions (*shape, ..., A) drawn from Normals over (..., A), without a gradient.

    Unlike `Normal.sample`, which checks the deviations, it does not wait for the device.
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


def advantage_weight(
    advantage: Tensor,
    scale: float,
    weight_type: WeightType = "",
    floor: float = 0.0,
    quantile: float = 0.0,
) -> Tensor:
    """Weights of the policy's regression (Osa et al. 2023, advantage normalisation): (B,) -> (B,).

    Args:
        advantage: A of a batch, (B,).
        scale: alpha of the paper; 0 makes all weights 1.
        weight_type: "" or "adapt": exp(scale (A - max A) / (max A - min A)) over its batch mean;
            "clamp": exp(scale A) in [0, 100]; "raw": exp(scale (A - max A)) over its batch mean.
        floor: before the division by the mean, no weight is below this share of the largest.
        quantile: at most 0.5; advantages are clamped to the quantiles `quantile` and
            1 - `quantile`. `floor` and `quantile` are additions to the paper, off at 0.
    """
    if quantile:
        low, high = (torch.quantile(advantage, one) for one in (quantile, 1 - quantile))
        advantage = advantage.clamp(low, high)
    if weight_type == "clamp":
        return _with_floor((scale * advantage).exp().clamp(max=100), floor)
    lowest, highest = advantage.aminmax()
    below_best = advantage - highest
    if weight_type != "raw":
        # Equal advantages have a width of 0; any positive one gives them equal weights.
        width = highest - lowest
        below_best = below_best / width.clamp(min=torch.finfo(advantage.dtype).tiny)
    weight = _with_floor((scale * below_best).exp(), floor)
    return weight / weight.mean()


def _with_floor(weight: Tensor, floor: float) -> Tensor:
    return weight.clamp(min=floor * weight.max()) if floor else weight


def endless_returns(reward_range: tuple[float, float], discount: float) -> tuple[float, float]:
    """Bounds of an endless episode's discounted return: [min r, max r] / (1 - discount)."""
    low, high = reward_range
    horizon = 1 / max(1 - discount, 1e-6)
    return low * horizon, high * horizon


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


def make_target(network: Network) -> Network:
    """A copy that no gradient reaches."""
    target = copy.deepcopy(network)
    target.requires_grad_(False)
    return target


def call_frozen(network: nn.Module, *inputs: Tensor) -> Tensor:
    """network(*inputs), through which gradients reach the inputs and not the parameters."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return functional_call(network, parameters, inputs)


@torch.no_grad()
def polyak_update(network: nn.Module, target: nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau network."""
    torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)


@dataclass(frozen=True)
class RunSpec:
    """The facts of a run that a policy needs; not meant to be edited.

    Attributes:
        state_dim: S.
        action_dim: A.
        max_action: bound of every action.
        reward_range: lowest and highest reward of the dataset, as the policy trains on it.
        return_range: lowest and highest discounted return that follows a state of the dataset.
        train_steps: length of the run.
        is_antmaze: an episode has one reward, at its end.
    """

    state_dim: int
    action_dim: int
    max_action: float = 1.0
    reward_range: tuple[float, float] = (0.0, 1.0)
    return_range: tuple[float, float] = (0.0, 1.0)
    train_steps: int = 1_000_000
    is_antmaze: bool = False


class Policy:
    """Base class of the policies: it counts, samples, and saves; they `update` and `act`.

    Networks, targets, optimisers and schedules are attributes, or stand in lists or dicts that
    are; `state_dict` finds them there. For steps to be compiled or captured, `update` may look at
    `total_it` only as `total_it % policy_freq`, with `policy_freq` a hyperparameter.

    Args:
        spec: sizes, bounds and length of the run.
        hyperparameters: the policy module's `Hyperparameters`.
        device: of all networks and batches.

    Attributes:
        total_it: train steps so far.
    """

    depends_on_train_steps = False  # True where the run's length changes what a step computes

    def __init__(self, spec: RunSpec, hyperparameters: Any, device: torch.device | str = "cpu"):
        self.spec = spec
        self.hp = hyperparameters
        self.device = torch.device(device)
        self.total_it = 0
        keep_freed_memory()

    @staticmethod
    def training_rewards(rewards: np.ndarray, is_antmaze: bool) -> np.ndarray:
        """Rewards as this policy trains on them, (N,) -> (N,): r - 1 on antmaze, else r."""
        return rewards - 1 if is_antmaze else rewards

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step of every optimiser that is due; returns the losses by name, 0-d tensors."""
        raise NotImplementedError

    def act(self, state: Tensor) -> Tensor:
        """Actions of the deterministic policy that is evaluated: (n, S) -> (n, A)."""
        raise NotImplementedError

    def weight(self, batch: Batch) -> Tensor | None:
        """Weights (B,) of the actor's regression on a batch; None for a policy without them."""
        return None

    def value_of(self, state: Tensor, action: Tensor) -> Tensor | None:
        """The lower critic's value of actions, (B,); None for a policy without a `TwinCritic`."""
        critic = getattr(self, "critic", None)
        return torch.minimum(*critic(state, action)) if isinstance(critic, TwinCritic) else None

    @property
    def value_range(self) -> tuple[float, float]:
        """Bounds of the returns that the dataset's rewards allow, however long an episode is."""
        low, high = self.spec.reward_range
        endless_low, endless_high = endless_returns((low, high), self.hp.discount)
        return min(low, endless_low), max(high, endless_high)

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> dict[str, Tensor]:
        """One train step; returns its losses by name, detached 0-d tensors on the device."""
        return self.train_on(replay_buffer.sample(batch_size))

    def train_on(self, batch: Batch) -> dict[str, Tensor]:
        """One train step on a given batch; returns what `train` does."""
        self.total_it += 1
        losses = self.update(batch)
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.inference_mode()  # a twentieth faster than no_grad for the few states of an evaluation
    def select_action(self, states: np.ndarray) -> np.ndarray:
        """(n, S) normalised states -> (n, A) float32 actions."""
        return self.to_array(self.act(self.to_tensor(states)))

    def to_tensor(self, array: np.ndarray) -> Tensor:
        """An array as float32 on the policy's device."""
        return torch.as_tensor(array, dtype=torch.float32).to(self.device)

    @staticmethod
    def to_array(tensor: Tensor) -> np.ndarray:
        """A tensor as an array. This waits for the device."""
        return tensor.detach().cpu().numpy()

    def parts(self) -> dict[str, Any]:
        """Networks, targets, optimisers and schedules by name; "critics.0" is from a list."""
        return dict(_parts_in(vars(self), ""))

    def networks(self) -> dict[str, nn.Module]:
        """All networks and targets, by name."""
        return {name: part for name, part in self.parts().items() if isinstance(part, nn.Module)}

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to resume: networks, targets, optimisers, schedules, counter.

        Raises:
            ValueError: an optimiser holds a parameter of no saved network.
        """
        parts = self.parts()
        self._check_all_are_saved(parts)
        states = {name: part.state_dict() for name, part in parts.items()}
        return states | {"total_it": self.total_it}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another policy or of other sizes.
        """
        parts = self.parts()
        if state.keys() != {*parts, "total_it"}:
            raise KeyError(f"a state of {sorted(state)} cannot be loaded into {sorted(parts)}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.total_it = state["total_it"]

    def _check_all_are_saved(self, parts: dict[str, Any]) -> None:
        networks = [part for part in parts.values() if isinstance(part, nn.Module)]
        saved = {id(parameter) for network in networks for parameter in network.parameters()}
        for name, part in parts.items():
            if isinstance(part, Optimizer) and any(
                id(p) not in saved for group in part.param_groups for p in group["params"]
            ):
                raise ValueError(
                    f"{type(self).__name__}.{name} trains a parameter of no network that is saved: "
                    "keep every network in an attribute, a list or a dict of the policy"
                )


def _parts_in(items: dict, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in items.items():
        name = f"{prefix}{key}"
        if hasattr(item, "state_dict"):
            yield name, item
        elif isinstance(item, dict):
            yield from _parts_in(item, f"{name}.")
        elif isinstance(item, (list, tuple)):
            yield from _parts_in(dict(enumerate(item)), f"{name}.")
