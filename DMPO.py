"""DMPO: deterministic mixture policy optimisation.

Osa, Hayashi, Deo, Morihira, Yoshiike: Offline Reinforcement Learning with Mixture of Deterministic
Policies, TMLR 2023. The policy is a mixture of K deterministic policies mu(s, z); a discrete latent
z is inferred from the data by a posterior q(z|s, a), weighted by advantage, and the component that
acts is the one the critic values most.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import (
    MLP,
    Batch,
    LatentEmbedding,
    Policy,
    ReplayBuffer,
    TwinCritic,
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
    discount: float = 0.99  # gamma
    tau: float = 0.005  # Polyak step of the targets
    policy_freq: int = 2  # critic updates per policy update
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    target_noise: float = 0.2  # std of the noise on target actions
    target_noise_clip: float = 0.5
    latent_disc_dim: int = 8  # K, components of the mixture
    temperature: float = 0.67  # of the Gumbel-softmax
    scale: float = 10.0  # alpha, of the advantages
    weight_type: str = ""
    kl_weight: float = 1.0  # beta, of KL(q(z|s,a) || p(z|s))
    info_reg: bool = False  # maximise the mutual information of z and (s, a)
    ilr: float = 5e-7  # learning rate of the mutual information


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
        self,
        state_dim: int,
        action_dim: int,
        max_action: float,
        hyperparameters: Hyperparameters,
        device: torch.device | str = "cpu",
    ):
        super().__init__(device)
        self.hp = hp = hyperparameters
        self.max_action = max_action
        self.actor = Actor(state_dim, action_dim, hp.latent_disc_dim, hp.hidden, max_action)
        self.critic = TwinCritic(state_dim, action_dim, hp.hidden)
        self.posterior = MLP([state_dim, action_dim], hp.hidden, hp.latent_disc_dim)
        for network in (self.actor, self.critic, self.posterior):
            network.to(device)
        self.actor_target = make_target(self.actor)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic], hp.learning_rate)
        self.actor_optimizer = adam([self.actor, self.posterior], hp.learning_rate)
        if hp.info_reg:
            self.info_posterior = MLP([state_dim, action_dim], hp.hidden, hp.latent_disc_dim)
            self.info_posterior.to(device)
            self.info_optimizer = adam([self.actor, self.info_posterior], hp.ilr)
        # One-hot latents, shaped to broadcast against states: (K, 1, K).
        self.components = torch.eye(hp.latent_disc_dim, device=device).unsqueeze(1)

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        self.total_it += 1
        batch = replay_buffer.sample(batch_size)
        self.losses = {"critic": self.critic_loss(batch)}
        minimize(self.losses["critic"], self.critic_optimizer)
        if self.total_it % self.hp.policy_freq == 0:
            self.update_policy(batch)
        return self.losses["critic"].detach()

    def update_policy(self, batch: Batch) -> None:
        self.losses["actor"] = self.actor_loss(batch)
        minimize(self.losses["actor"], self.actor_optimizer)
        if self.hp.info_reg:
            self.losses["info"] = self.info_loss(batch.state)
            minimize(self.losses["info"], self.info_optimizer)
        polyak_update(self.critic, self.critic_target, self.hp.tau)
        polyak_update(self.actor, self.actor_target, self.hp.tau)

    def critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_action, _ = self.best_component(self.actor_target, batch.next_state)
            noise = torch.empty_like(next_action).normal_(std=self.hp.target_noise)
            noise = noise.clamp(-self.hp.target_noise_clip, self.hp.target_noise_clip)
            next_action = (next_action + noise).clamp(-self.max_action, self.max_action)
            next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def actor_loss(self, batch: Batch) -> Tensor:
        state, action = batch.state, batch.action
        with torch.no_grad():
            advantage = self.advantage(state, action)
            weight = advantage_weight(advantage, self.hp.scale, self.hp.weight_type)
            _, values = self.component_values(self.actor, state)
            log_prior = values.T.log_softmax(-1)
        logits = self.posterior(state, action)
        latent = F.gumbel_softmax(logits, tau=self.hp.temperature)
        error = (self.actor(state, latent) - action).square().sum(-1)
        log_posterior = logits.log_softmax(-1)
        kl = (log_posterior.exp() * (log_posterior - log_prior)).sum(-1)
        return (weight * (error + self.hp.kl_weight * kl)).mean()

    def info_loss(self, state: Tensor) -> Tensor:
        component = torch.randint(self.hp.latent_disc_dim, (len(state),), device=state.device)
        action = self.actor(state, self.components[component, 0])
        return F.cross_entropy(self.info_posterior(state, action), component)

    def advantage(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) - max_z Q(s, mu_target(s, z)): (B,)."""
        _, best_value = self.best_component(self.actor_target, state)
        return self.pessimistic(self.critic(state, action)) - best_value

    def pessimistic(self, values: tuple[Tensor, Tensor]) -> Tensor:
        """One value of the twins': the lower."""
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

    def act(self, state: Tensor) -> Tensor:
        return self.best_component(self.actor, state)[0]

    # What the paper's figures show. All take and return NumPy arrays; states are normalised.

    @torch.no_grad()
    def assign_components(
        self, states: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The component q(z|s, a) gives dataset pairs, (n,) int64, and their advantages, (n,)."""
        state, action = self.tensor(states), self.tensor(actions)
        component = self.posterior(state, action).argmax(-1)
        return component.cpu().numpy(), self.advantage(state, action).cpu().numpy()

    @torch.no_grad()
    def values_of_components(self, states: np.ndarray) -> np.ndarray:
        """Value of every component at every state, (n, K)."""
        _, values = self.component_values(self.actor, self.tensor(states))
        return values.T.cpu().numpy()

    @torch.no_grad()
    def select_action_of(self, states: np.ndarray, component: int) -> np.ndarray:
        """Act with one component whatever its value: (n, S) -> (n, A)."""
        return self.actor(self.tensor(states), self.components[component]).cpu().numpy()
