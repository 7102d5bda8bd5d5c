"""AWAC: advantage-weighted actor-critic, as the baseline of Osa et al. (TMLR 2023).

Nair et al., AWAC: Accelerating Online Reinforcement Learning with Offline Datasets, 2020. As in the
paper's comparison: clipped double Q-learning, normalised states and normalised advantages.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from utils import (
    Batch,
    GaussianActor,
    Policy,
    ReplayBuffer,
    TwinCritic,
    adam,
    advantage_weight,
    log_prob,
    make_target,
    minimize,
    polyak_update,
    sample,
    td_loss,
    td_target,
)


@dataclass
class Hyperparameters:
    discount: float = 0.99  # gamma
    tau: float = 0.005  # Polyak step of the targets
    policy_freq: int = 2  # critic updates per policy update
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    scale: float = 10.0  # of the advantages
    weight_type: str = ""
    score_type: str = "adv"  # "adv": Q(s, a) - V(s); anything else: Q(s, a)
    value_samples: int = 5  # actions that estimate V(s)


class AWAC(Policy):
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
        self.actor_target = make_target(self.actor)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic], hp.learning_rate)
        self.actor_optimizer = adam([self.actor], hp.learning_rate)

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        self.total_it += 1
        batch = replay_buffer.sample(batch_size)
        self.losses = {"critic": self.critic_loss(batch)}
        minimize(self.losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            self.losses["actor"] = self.actor_loss(batch)
            minimize(self.losses["actor"], self.actor_optimizer)
            polyak_update(self.critic, self.critic_target, self.hp.tau)
            polyak_update(self.actor, self.actor_target, self.hp.tau)
        return self.losses["critic"].detach()

    def critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_action = sample(self.actor(batch.next_state))
            next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            advantage = self.advantage(batch.state, batch.action)
            weight = advantage_weight(advantage, self.hp.scale, self.hp.weight_type)
        return -(weight * log_prob(self.actor(batch.state), batch.action)).mean()

    def advantage(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) less, if score_type is "adv", the mean value of actions ~ pi_target(s): (B,)."""
        if self.hp.score_type != "adv":
            return torch.minimum(*self.critic(state, action))
        policy_actions = sample(self.actor_target(state), (self.hp.value_samples,))
        values = torch.minimum(*self.critic(state, torch.cat([action[None], policy_actions])))
        return values[0] - values[1:].mean(0)

    def act(self, state: Tensor) -> Tensor:
        return self.actor(state).mean
