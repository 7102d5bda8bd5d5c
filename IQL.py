"""IQL: implicit Q-learning, as the baseline of Osa et al. (TMLR 2023).

Kostrikov, Nair, Levine: Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022,
https://arxiv.org/abs/2110.06169. As in the paper's comparison: clipped double Q-learning,
normalised states and normalised advantages.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from utils import (
    Batch,
    Count,
    Fraction,
    GaussianActor,
    LogStd,
    NonNegative,
    Policy,
    Positive,
    PositiveFraction,
    RunSpec,
    TwinCritic,
    ValueFunction,
    WeightType,
    adam,
    advantage_weight,
    log_prob,
    make_target,
    minimize,
    polyak_update,
    td_loss,
    td_target,
)


@dataclass
class Hyperparameters:
    discount: Fraction = 0.99  # gamma, per step
    tau: PositiveFraction = 0.005  # Polyak step of the target networks
    policy_freq: Count = 2  # critic updates per policy update
    hidden: tuple[Count, ...] = (256, 256)  # units of each hidden layer
    learning_rate: Positive = 3e-4  # of Adam; the actor's decays to 0 over the run, by a cosine
    scale: NonNegative = 10.0  # alpha, of the advantages; 0 is plain regression
    weight_type: WeightType = ""  # of the advantage weights; "" is adapt
    expectile: Fraction = 0.9  # tau of the expectile regression
    log_std: LogStd = "global"  # one for each state, one for all (IQL's own) or the release's


class IQL(Policy):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    depends_on_train_steps = True  # by the actor's learning rate

    def __init__(
        self, spec: RunSpec, hyperparameters: Hyperparameters, device: torch.device | str = "cpu"
    ):
        super().__init__(spec, hyperparameters, device)
        hp = hyperparameters
        sizes = spec.state_dim, spec.action_dim
        self.actor = GaussianActor(
            [spec.state_dim], spec.action_dim, hp.hidden, spec.max_action, hp.log_std
        ).to(device)
        self.critic = TwinCritic(*sizes, hp.hidden).to(device)
        self.value = ValueFunction(spec.state_dim, hp.hidden).to(device)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic], hp.learning_rate)
        self.value_optimizer = adam([self.value], hp.learning_rate)
        self.actor_optimizer = adam([self.actor], hp.learning_rate)
        updates = max(1, spec.train_steps // hp.policy_freq)
        self.actor_schedule = LambdaLR(self.actor_optimizer, cosine_decay(updates))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        target_value = self.target_value(batch)
        losses = {"value": self.value_loss(batch, target_value)}
        minimize(losses["value"], self.value_optimizer)
        losses["critic"] = self.critic_loss(batch)
        minimize(losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            losses["actor"] = self.actor_loss(batch, target_value)
            minimize(losses["actor"], self.actor_optimizer)
            self.actor_schedule.step()
            polyak_update(self.critic, self.critic_target, self.hp.tau)
        return losses

    def value_loss(self, batch: Batch, target_value: Tensor) -> Tensor:
        """Expectile regression of V(s) on min(Q1', Q2')(s, a), batch mean, 0-d.

        Kostrikov et al., equation 5. `target_value` is that minimum, (B,).
        """
        return expectile_loss(target_value - self.value(batch.state), self.hp.expectile)

    def critic_loss(self, batch: Batch) -> Tensor:
        """(Q1(s, a) - y)^2 + (Q2(s, a) - y)^2, batch mean, 0-d; y = r + gamma not_done V(s').

        Kostrikov et al., equation 6.
        """
        with torch.no_grad():
            next_value = self.value(batch.next_state)
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch, target_value: Tensor) -> Tensor:
        """-w log pi(a|s), batch mean, 0-d; w are the weights of A = min(Q1', Q2')(s, a) - V(s).

        Kostrikov et al., equation 7. `target_value` is that minimum, (B,).
        """
        with torch.no_grad():
            weight = self.weight(batch, target_value)
        return -(weight * log_prob(self.actor(batch.state), batch.action)).mean()

    def weight(self, batch: Batch, target_value: Tensor | None = None) -> Tensor:
        value = self.target_value(batch) if target_value is None else target_value
        advantage = value - self.value(batch.state)
        return advantage_weight(advantage, self.hp.scale, self.hp.weight_type)

    @torch.no_grad()
    def target_value(self, batch: Batch) -> Tensor:
        """min(Q1', Q2')(s, a) by the target critics, which all updates of a step share: (B,)."""
        return torch.minimum(*self.critic_target(batch.state, batch.action))

    def act(self, state: Tensor) -> Tensor:
        return self.actor(state).mean


def cosine_decay(updates: int) -> Callable[[int], float]:
    """Factor of the learning rate after each update: from 1 to 0, by half a cosine."""
    return lambda update: (1 + math.cos(math.pi * min(update / updates, 1))) / 2


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Mean of |expectile - 1(error < 0)| error^2 (Kostrikov et al., equation 5): (B,) -> 0-d."""
    # torch.where would copy its two numbers to a GPU, which a CUDA graph forbids.
    weight = expectile + (1 - 2 * expectile) * (error < 0)
    return (weight * error.square()).mean()
