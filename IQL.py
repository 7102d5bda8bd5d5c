"""IQL: implicit Q-learning, as the baseline of Osa et al. (TMLR 2023).

Kostrikov, Nair, Levine: Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022. As in
the paper's comparison: clipped double Q-learning, normalised states and normalised advantages.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from utils import (
    Batch,
    GaussianActor,
    Policy,
    ReplayBuffer,
    TwinCritic,
    ValueFunction,
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
    discount: float = 0.99  # gamma
    tau: float = 0.005  # Polyak step of the targets
    policy_freq: int = 2  # critic updates per policy update
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4  # the actor's decays to 0 over the run, by a cosine
    scale: float = 10.0  # of the advantages
    weight_type: str = ""
    expectile: float = 0.9  # tau of the expectile regression
    max_timesteps: int = 1_000_000  # train steps of the run; main_training sets it


class IQL(Policy):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        max_action: float,
        hyperparameters: Hyperparameters,
        device: torch.device | str = "cpu",
    ):
        super().__init__(device)
        self.hp = hp = hyperparameters
        self.actor = GaussianActor([state_dim], action_dim, hp.hidden, max_action).to(device)
        self.critic = TwinCritic(state_dim, action_dim, hp.hidden).to(device)
        self.value = ValueFunction(state_dim, hp.hidden).to(device)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic], hp.learning_rate)
        self.value_optimizer = adam([self.value], hp.learning_rate)
        self.actor_optimizer = adam([self.actor], hp.learning_rate)
        updates = max(1, hp.max_timesteps // hp.policy_freq)
        self.actor_schedule = LambdaLR(self.actor_optimizer, cosine_decay(updates))

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        self.total_it += 1
        batch = replay_buffer.sample(batch_size)
        target_value = self.target_value(batch.state, batch.action)
        self.losses = {"value": self.value_loss(batch.state, target_value)}
        minimize(self.losses["value"], self.value_optimizer)
        self.losses["critic"] = self.critic_loss(batch)
        minimize(self.losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            self.losses["actor"] = self.actor_loss(batch, target_value)
            minimize(self.losses["actor"], self.actor_optimizer)
            self.actor_schedule.step()
            polyak_update(self.critic, self.critic_target, self.hp.tau)
        return self.losses["critic"].detach()

    def value_loss(self, state: Tensor, target_value: Tensor) -> Tensor:
        return expectile_loss(target_value - self.value(state), self.hp.expectile)

    def critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_value = self.value(batch.next_state)
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch, target_value: Tensor) -> Tensor:
        with torch.no_grad():
            advantage = target_value - self.value(batch.state)
            weight = advantage_weight(advantage, self.hp.scale, self.hp.weight_type)
        return -(weight * log_prob(self.actor(batch.state), batch.action)).mean()

    @torch.no_grad()
    def target_value(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) by the target critics, which all updates of a step share: (B,)."""
        return torch.minimum(*self.critic_target(state, action))

    def act(self, state: Tensor) -> Tensor:
        return self.actor(state).mean


def cosine_decay(updates: int) -> Callable[[int], float]:
    """Factor of the learning rate after each update: from 1 to 0, by half a cosine."""
    return lambda update: (1 + math.cos(math.pi * min(update / updates, 1))) / 2


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Mean of |expectile - 1(error < 0)| error^2 (Kostrikov et al., equation 5)."""
    # torch.where would copy its two numbers to a GPU, which a CUDA graph forbids.
    weight = expectile + (1 - 2 * expectile) * (error < 0)
    return (weight * error.square()).mean()
