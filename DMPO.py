"""DMPO: deterministic mixture policy optimisation.

Osa, Hayashi, Deo, Morihira, Yoshiike: Offline Reinforcement Learning with Mixture of Deterministic
Policies, TMLR 2023, https://openreview.net/forum?id=zkRCp4RmAF. The policy is a mixture of K
deterministic policies mu(s, z). A posterior q(z|s, a) divides the data among the components, which
regress to it weighted by advantage. The component that acts is the one the critic values most.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import (
    MLP,
    Batch,
    Count,
    Fraction,
    HalfFraction,
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
    learning_rate: Positive = 3e-4  # of Adam
    target_noise: NonNegative = 0.2  # std of the noise on target actions
    target_noise_clip: NonNegative = 0.5  # bound of that noise
    latent_disc_dim: Count = 8  # K, components of the mixture
    temperature: Positive = 0.67  # of the Gumbel-softmax
    scale: NonNegative = 10.0  # alpha, of the advantages; 0 is plain regression
    weight_type: WeightType = ""  # of the advantage weights; "" is adapt
    weight_floor: Fraction = 0.0  # least weight, as a share of the largest; not in the paper
    advantage_quantile: HalfFraction = 0.0  # cuts both tails of the advantages; not in the paper
    target_clip: Literal["", "rewards", "data"] = ""  # clips y to possible or observed returns
    layer_norm: bool = False  # in the critics; not in the paper
    kl_weight: NonNegative = 1.0  # beta, of KL(q(z|s,a) || p(z|s))
    info_reg: bool = False  # maximise the mutual information of z and (s, a)
    ilr: Positive = 5e-7  # learning rate of the mutual information


class Actor(nn.Module):
    """mu(s, z): states (B, S) and latents (B, K) -> (B, A); latents (K, 1, K) -> (K, B, A)."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        latent_dim: int,
        hidden: tuple[int, ...],
        max_action: float,
    ):
        super().__init__()
        self.embedding = LatentEmbedding(latent_dim, state_dim)
        self.network = MLP([state_dim, state_dim], hidden, action_dim)
        self.max_action = max_action

    def forward(self, state: Tensor, latent: Tensor) -> Tensor:
        return self.max_action * self.network(state, self.embedding(latent)).tanh()


class DMPO(Policy):
    """See the module's docstring; the interface is `utils.Policy`'s."""

    def __init__(
        self, spec: RunSpec, hyperparameters: Hyperparameters, device: torch.device | str = "cpu"
    ):
        super().__init__(spec, hyperparameters, device)
        hp = hyperparameters
        sizes = spec.state_dim, spec.action_dim
        self.actor = Actor(*sizes, hp.latent_disc_dim, hp.hidden, spec.max_action)
        self.critic = TwinCritic(*sizes, hp.hidden, hp.layer_norm)
        self.posterior = MLP(sizes, hp.hidden, hp.latent_disc_dim)
        for network in (self.actor, self.critic, self.posterior):
            network.to(device)
        self.actor_target = make_target(self.actor)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic], hp.learning_rate)
        self.actor_optimizer = adam([self.actor, self.posterior], hp.learning_rate)
        if hp.info_reg:
            self.info_posterior = MLP(sizes, hp.hidden, hp.latent_disc_dim).to(device)
            self.info_optimizer = adam([self.actor, self.info_posterior], hp.ilr)
        # One-hot latents, shaped to broadcast against states: (K, 1, K).
        self.components = torch.eye(hp.latent_disc_dim, device=device).unsqueeze(1)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses = {"critic": self.critic_loss(batch)}
        minimize(losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            losses |= self.update_policy(batch)
        return losses

    def update_policy(self, batch: Batch) -> dict[str, Tensor]:
        """Update actor and posterior, then the target networks; returns the losses by name."""
        losses = {"actor": self.actor_loss(batch)}
        minimize(losses["actor"], self.actor_optimizer)
        if self.hp.info_reg:
            losses["info"] = self.info_loss(batch)
            minimize(losses["info"], self.info_optimizer)
        polyak_update(self.critic, self.critic_target, self.hp.tau)
        polyak_update(self.actor, self.actor_target, self.hp.tau)
        return losses

    def critic_loss(self, batch: Batch) -> Tensor:
        """(Q1(s, a) - y)^2 + (Q2(s, a) - y)^2, batch mean, 0-d.

        y = r + gamma not_done min(Q1', Q2')(s', a'), by the target networks, where a' is the action
        of the best component at s' with clipped noise (Fujimoto et al., TD3, ICML 2018).
        """
        with torch.no_grad():
            next_action, _ = self.best_component(self.actor_target, batch.next_state)
            noise = torch.empty_like(next_action).normal_(std=self.hp.target_noise)
            noise = noise.clamp(-self.hp.target_noise_clip, self.hp.target_noise_clip)
            bound = self.spec.max_action
            next_action = (next_action + noise).clamp(-bound, bound)
            next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
            target = self.clip(td_target(batch, next_value, self.hp.discount))
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch) -> Tensor:
        """w (|mu(s, z) - a|^2 + beta KL(q(z|s, a) || p(z|s))), batch mean, 0-d.

        z ~ q(z|s, a) by Gumbel-softmax; p(z|s) is the softmax of the components' values; w are the
        advantage weights. This is the weighted variational lower bound of Osa et al. 2023, negated.
        """
        state, action = batch.state, batch.action
        with torch.no_grad():
            weight = self.weight(batch)
            _, values = self.component_values(self.actor, state)
            log_prior = values.T.log_softmax(-1)
        logits = self.posterior(state, action)
        latent = F.gumbel_softmax(logits, tau=self.hp.temperature)
        error = (self.actor(state, latent) - action).square().sum(-1)
        log_posterior = logits.log_softmax(-1)
        kl = (log_posterior.exp() * (log_posterior - log_prior)).sum(-1)
        return (weight * (error + self.hp.kl_weight * kl)).mean()

    def info_loss(self, batch: Batch) -> Tensor:
        """-log g(z|s, mu(s, z)) with z uniform over the components, batch mean, 0-d.

        Minimising it raises a lower bound of the mutual information of z and (s, a), as InfoGAN
        does (Chen et al., NeurIPS 2016).
        """
        state = batch.state
        component = torch.randint(self.hp.latent_disc_dim, (len(state),), device=state.device)
        action = self.actor(state, self.components[component, 0])
        return F.cross_entropy(self.info_posterior(state, action), component)

    def clip(self, target: Tensor) -> Tensor:
        """Targets within the returns that the rewards allow or the data hold: (B,) -> (B,)."""
        ranges = {"rewards": self.value_range, "data": self.spec.return_range}
        return target.clamp(*ranges[self.hp.target_clip]) if self.hp.target_clip else target

    def weight(self, batch: Batch) -> Tensor:
        hp = self.hp
        return advantage_weight(
            self.advantage(batch), hp.scale, hp.weight_type, hp.weight_floor, hp.advantage_quantile
        )

    def advantage(self, batch: Batch) -> Tensor:
        """Q(s, a) - max_z Q(s, mu_target(s, z)), both by the online critic: (B,)."""
        _, best_value = self.best_component(self.actor_target, batch.state)
        return self.pessimistic(self.critic(batch.state, batch.action)) - best_value

    def pessimistic(self, values: tuple[Tensor, Tensor]) -> Tensor:
        """One value from the twins': the lower."""
        return torch.minimum(*values)

    def component_values(self, actor: Actor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Action (K, B, A) and value (K, B) of every component at every state."""
        actions = actor(state, self.components)
        return actions, self.pessimistic(self.critic(state, actions))

    def best_component(self, actor: Actor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Action (B, A) and value (B,) of the component that the critic values most."""
        actions, values = self.component_values(actor, state)
        best_value, best = values.max(0)
        return actions.take_along_dim(best[None, :, None], dim=0).squeeze(0), best_value

    def value_of(self, state: Tensor, action: Tensor) -> Tensor:
        return self.pessimistic(self.critic(state, action))

    def act(self, state: Tensor) -> Tensor:
        return self.best_component(self.actor, state)[0]

    # For the paper's figures. These take and return NumPy arrays; states are normalised.

    @torch.no_grad()
    def assign_components(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The component that q(z|s, a) gives each pair, (n,) int64, and its advantage, (n,)."""
        state, action = self.to_tensor(states), self.to_tensor(actions)
        component = self.posterior(state, action).argmax(-1)
        blank = torch.zeros(len(state), device=self.device)
        advantage = self.advantage(Batch(state, action, state, blank, blank))
        return self.to_array(component), self.to_array(advantage)

    @torch.no_grad()
    def values_of_components(self, states: np.ndarray) -> np.ndarray:
        """Value of every component at every state, (n, K)."""
        _, values = self.component_values(self.actor, self.to_tensor(states))
        return self.to_array(values.T)

    @torch.no_grad()
    def select_action_of(self, states: np.ndarray, component: int) -> np.ndarray:
        """Act with one component whatever its value: (n, S) -> (n, A)."""
        return self.to_array(self.actor(self.to_tensor(states), self.components[component]))
