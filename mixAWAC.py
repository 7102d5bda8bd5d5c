"""mixAWAC: AWAC with a mixture of Gaussians, the baseline of Osa et al. (TMLR 2023).

As AWAC.py, except that the policy is a mixture: a gate alpha(s) over K Gaussians that share one
network, conditioned on the component as DMPO's actor is.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from utils import (
    MLP,
    Batch,
    Count,
    Fraction,
    GaussianActor,
    LatentEmbedding,
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
    latent_disc_dim: Count = 8  # K, components of the mixture
    scale: NonNegative = 10.0  # alpha, of the advantages; 0 is plain regression
    weight_type: WeightType = ""  # of the advantage weights; "" is adapt


class MixtureActor(nn.Module):
    """alpha(s) and K Gaussians: states (B, S), latents (B, K) -> a Normal over (B, A)."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        latent_dim: int,
        hidden: tuple[int, ...],
        max_action: float,
    ):
        super().__init__()
        self.gate = MLP([state_dim], hidden, latent_dim)
        self.embedding = LatentEmbedding(latent_dim, state_dim)
        self.gaussian = GaussianActor([state_dim, state_dim], action_dim, hidden, max_action)
        # One-hot latents, shaped to broadcast against states: (K, 1, K).
        self.components: Tensor
        self.register_buffer("components", torch.eye(latent_dim).unsqueeze(1), persistent=False)

    def forward(self, state: Tensor, latent: Tensor) -> Normal:
        return self.gaussian(state, self.embedding(latent))

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """log sum_k alpha_k(s) N(a; mu_k, sigma_k): (B,)."""
        log_gate = self.gate(state).log_softmax(-1)
        log_component = log_prob(self(state, self.components), action)
        return (log_gate + log_component.T).logsumexp(-1)

    def sample(self, state: Tensor) -> Tensor:
        """(B, A): a component of alpha(s), then its Gaussian.

        A temperature would not change which logit is the largest after Gumbel noise.
        """
        component = F.gumbel_softmax(self.gate(state)).argmax(-1)
        return sample(self(state, self.components[component, 0]))

    def mode(self, state: Tensor) -> Tensor:
        """(B, A): the mean of the most probable component."""
        component = self.gate(state).argmax(-1)
        return self(state, self.components[component, 0]).mean


class mixAWAC(Policy):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    def __init__(
        self, spec: RunSpec, hyperparameters: Hyperparameters, device: torch.device | str = "cpu"
    ):
        super().__init__(spec, hyperparameters, device)
        hp = hyperparameters
        sizes = spec.state_dim, spec.action_dim
        self.actor = MixtureActor(*sizes, hp.latent_disc_dim, hp.hidden, spec.max_action).to(device)
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

        y = r + gamma not_done min(Q1', Q2')(s', a') with a' ~ pi_target(s'), one sample.
        """
        with torch.no_grad():
            next_action = self.actor_target.sample(batch.next_state)
            next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch) -> Tensor:
        """-w log sum_k alpha_k(s) N(a; mu_k, sigma_k), batch mean, 0-d; w: advantage weights."""
        with torch.no_grad():
            weight = self.weight(batch)
        return -(weight * self.actor.log_prob(batch.state, batch.action)).mean()

    def weight(self, batch: Batch) -> Tensor:
        return advantage_weight(self.advantage(batch), self.hp.scale, self.hp.weight_type)

    def advantage(self, batch: Batch) -> Tensor:
        """Q(s, a) - Q(s, a'), a' ~ pi_target(s), by the target critic: (B,)."""
        policy_action = self.actor_target.sample(batch.state)
        actions = torch.stack([batch.action, policy_action])
        value, policy_value = torch.minimum(*self.critic_target(batch.state, actions))
        return value - policy_value

    def act(self, state: Tensor) -> Tensor:
        return self.actor.mode(state)
