"""AWAC: advantage-weighted actor-critic, as the baseline of Osa et al. (TMLR 2023).

Nair et al., AWAC: Accelerating Online Reinforcement Learning with Offline Datasets, 2020,
https://arxiv.org/abs/2006.09359. As in the paper's comparison: clipped double Q-learning,
normalised states and normalised advantages.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from utils import (
    Batch,
    Count,
    Fraction,
    GaussianActor,
    NonNegative,
    Policy,
    Positive,
    PositiveFraction,
    RunSpec,
    TwinCritic,
    WeightType,
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
    discount: Fraction = 0.99  # gamma, per step
    tau: PositiveFraction = 0.005  # Polyak step of the target networks
    policy_freq: Count = 2  # critic updates per policy update
    hidden: tuple[Count, ...] = (256, 256)  # units of each hidden layer
    learning_rate: Positive = 3e-4  # of Adam
    scale: NonNegative = 10.0  # alpha, of the advantages; 0 is plain regression
    weight_type: WeightType = ""  # of the advantage weights; "" is adapt
    score_type: Literal["adv", "q"] = "adv"  # weights by Q(s, a) - V(s), or by Q(s, a)
    value_samples: Count = 5  # actions that estimate V(s)


class AWAC(Policy):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    def __init__(
        self, spec: RunSpec, hyperparameters: Hyperparameters, device: torch.device | str = "cpu"
    ):
        super().__init__(spec, hyperparameters, device)
        hp = hyperparameters
        sizes = spec.state_dim, spec.action_dim
        self.actor = GaussianActor(
            [spec.state_dim], spec.action_dim, hp.hidden, spec.max_action
        ).to(device)
        self.critic = TwinCritic(*sizes, hp.hidden).to(device)
        self.actor_target = make_target(self.actor)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic], hp.learning_rate)
        self.actor_optimizer = adam([self.actor], hp.learning_rate)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses = {"critic": self.critic_loss(batch)}
        minimize(losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            losses["actor"] = self.actor_loss(batch)
            minimize(losses["actor"], self.actor_optimizer)
            polyak_update(self.critic, self.critic_target, self.hp.tau)
            polyak_update(self.actor, self.actor_target, self.hp.tau)
        return losses

    def critic_loss(self, batch: Batch) -> Tensor:
        """(Q1(s, a) - y)^2 + (Q2(s, a) - y)^2, batch mean, 0-d.

        y = r + gamma not_done min(Q1', Q2')(s', a') with a' ~ pi(s'), one sample (Nair et al.,
        policy evaluation; the lower of two target critics).
        """
        with torch.no_grad():
            next_action = sample(self.actor(batch.next_state))
            next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch) -> Tensor:
        """-w log pi(a|s), batch mean, 0-d, with the advantage weights w (Nair et al.)."""
        with torch.no_grad():
            weight = self.weight(batch)
        return -(weight * log_prob(self.actor(batch.state), batch.action)).mean()

    def weight(self, batch: Batch) -> Tensor:
        return advantage_weight(self.advantage(batch), self.hp.scale, self.hp.weight_type)

    def advantage(self, batch: Batch) -> Tensor:
        """Q(s, a) less, with score_type "adv", the mean value of a_j ~ pi_target(s): (B,)."""
        state, action = batch.state, batch.action
        if self.hp.score_type != "adv":
            return torch.minimum(*self.critic(state, action))
        policy_actions = sample(self.actor_target(state), (self.hp.value_samples,))
        values = torch.minimum(*self.critic(state, torch.cat([action[None], policy_actions])))
        return values[0] - values[1:].mean(0)

    def act(self, state: Tensor) -> Tensor:
        return self.actor(state).mean
