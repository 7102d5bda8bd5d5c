"""LP_AWAC: a latent policy on a weighted conditional VAE, the baseline of Osa et al. (TMLR 2023).

After Chen et al., LAPO: Latent-Variable Advantage-Weighted Policy Optimization for Offline RL,
NeurIPS 2022. A conditional VAE learns the dataset's actions, weighted by advantage; a deterministic
policy acts in its continuous latent space. The target decoder decodes every action.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import (
    MLP,
    Batch,
    Policy,
    ReplayBuffer,
    TwinCritic,
    ValueFunction,
    adam,
    advantage_weight,
    call_frozen,
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
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    scale: float = 10.0  # of the advantages
    weight_type: str = ""
    max_latent_action: float = 2.0  # bound of the latent policy
    no_noise: bool = False  # no noise on latent actions in the targets of V
    latent_noise: float = 0.1  # its std
    latent_noise_clip: float = 0.2


class CVAE(nn.Module):
    """q(u|s, a) and a decoder p(a|s, u), with a latent u of size 2A."""

    def __init__(self, state_dim: int, action_dim: int, hidden: tuple[int, ...]):
        super().__init__()
        latent_dim = 2 * action_dim
        self.encoder = MLP([state_dim, action_dim], hidden, 2 * latent_dim)
        self.decoder = MLP([state_dim, latent_dim], hidden, action_dim)

    def encode(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of u, (B, 2A) each."""
        return self.encoder(state, action).chunk(2, dim=-1)


class LP_AWAC(Policy):
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
        self.cvae = CVAE(state_dim, action_dim, hp.hidden).to(device)
        self.actor = MLP([state_dim], hp.hidden, 2 * action_dim).to(device)
        self.critic = TwinCritic(state_dim, action_dim, hp.hidden).to(device)
        self.value = ValueFunction(state_dim, hp.hidden).to(device)
        self.cvae_target = make_target(self.cvae)
        self.actor_target = make_target(self.actor)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic, self.value], hp.learning_rate)
        self.cvae_optimizer = adam([self.cvae], hp.learning_rate)
        self.actor_optimizer = adam([self.actor], hp.learning_rate)

    def train(self, replay_buffer: ReplayBuffer, batch_size: int) -> Tensor:
        self.total_it += 1
        batch = replay_buffer.sample(batch_size)
        critic_loss, value_loss = self.critic_loss(batch), self.value_loss(batch.state)
        self.losses = {"critic": critic_loss, "value": value_loss}
        minimize(critic_loss + value_loss, self.critic_optimizer)
        self.losses["cvae"] = self.cvae_loss(batch)
        minimize(self.losses["cvae"], self.cvae_optimizer)
        self.losses["actor"] = self.actor_loss(batch.state)
        minimize(self.losses["actor"], self.actor_optimizer)
        polyak_update(self.critic, self.critic_target, self.hp.tau)
        polyak_update(self.actor, self.actor_target, self.hp.tau)
        polyak_update(self.cvae, self.cvae_target, self.hp.tau)
        return critic_loss.detach()

    def critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next_value = self.value(batch.next_state)
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def value_loss(self, state: Tensor) -> Tensor:
        with torch.no_grad():
            latent = self.latent_action(self.actor_target, state)
            if not self.hp.no_noise:
                clip = self.hp.latent_noise_clip
                noise = torch.empty_like(latent).normal_(std=self.hp.latent_noise)
                latent = latent + noise.clamp(-clip, clip)
            target = torch.minimum(*self.critic_target(state, self.decode(state, latent)))
        return F.mse_loss(self.value(state), target)

    def cvae_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            weight = advantage_weight(self.advantage(batch), self.hp.scale, self.hp.weight_type)
        mean, log_var = self.cvae.encode(batch.state, batch.action)
        latent = mean + (log_var / 2).exp() * torch.randn_like(mean)
        error = (self.cvae.decoder(batch.state, latent) - batch.action).square().sum(-1)
        return (weight * (error + kl_to_standard_normal(mean, log_var))).mean()

    def actor_loss(self, state: Tensor) -> Tensor:
        action = self.decode(state, self.latent_action(self.actor, state))
        return -call_frozen(self.critic.q1, state, action).mean()

    def advantage(self, batch: Batch) -> Tensor:
        """r + gamma Q(s', pi(s')) - V(s), by the targets: (B,)."""
        next_action = self.decode(
            batch.next_state, self.latent_action(self.actor_target, batch.next_state)
        )
        next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
        return (
            batch.reward + self.hp.discount * batch.not_done * next_value - self.value(batch.state)
        )

    def latent_action(self, actor: MLP, state: Tensor) -> Tensor:
        """(B, S) -> (B, 2A) in [-max_latent_action, max_latent_action]."""
        return self.hp.max_latent_action * actor(state).tanh()

    def decode(self, state: Tensor, latent: Tensor) -> Tensor:
        """(B, S), (B, 2A) -> (B, A), by the target decoder."""
        return self.cvae_target.decoder(state, latent)

    def act(self, state: Tensor) -> Tensor:
        return self.decode(state, self.latent_action(self.actor, state))


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, var) || N(0, 1)) summed over the last dimension."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(-1)
