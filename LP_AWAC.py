"""LP_AWAC: a latent policy on a weighted conditional VAE, the baseline of Osa et al. (TMLR 2023).

After Chen et al., LAPO: Latent-Variable Advantage-Weighted Policy Optimization for Offline RL,
NeurIPS 2022, https://arxiv.org/abs/2203.08949. A conditional VAE learns the dataset's actions,
weighted by advantage. A deterministic policy acts in its continuous latent space, and the target
decoder decodes every action.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import (
    MLP,
    Batch,
    Count,
    Fraction,
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
    call_frozen,
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
    hidden: tuple[Count, ...] = (256, 256)  # units of each hidden layer
    learning_rate: Positive = 3e-4  # of Adam
    scale: NonNegative = 10.0  # alpha, of the advantages; 0 is plain regression
    weight_type: WeightType = ""  # of the advantage weights; "" is adapt
    max_latent_action: Positive = 2.0  # bound of the latent policy
    no_noise: bool = False  # no noise on latent actions in the targets of V
    latent_noise: NonNegative = 0.1  # std of that noise
    latent_noise_clip: NonNegative = 0.2  # its bound


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
        self, spec: RunSpec, hyperparameters: Hyperparameters, device: torch.device | str = "cpu"
    ):
        super().__init__(spec, hyperparameters, device)
        hp = hyperparameters
        sizes = spec.state_dim, spec.action_dim
        self.cvae = CVAE(*sizes, hp.hidden).to(device)
        self.actor = MLP([spec.state_dim], hp.hidden, 2 * spec.action_dim).to(device)
        self.critic = TwinCritic(*sizes, hp.hidden).to(device)
        self.value = ValueFunction(spec.state_dim, hp.hidden).to(device)
        self.cvae_target = make_target(self.cvae)
        self.actor_target = make_target(self.actor)
        self.critic_target = make_target(self.critic)
        self.critic_optimizer = adam([self.critic, self.value], hp.learning_rate)
        self.cvae_optimizer = adam([self.cvae], hp.learning_rate)
        self.actor_optimizer = adam([self.actor], hp.learning_rate)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses = {"critic": self.critic_loss(batch), "value": self.value_loss(batch)}
        minimize(losses["critic"] + losses["value"], self.critic_optimizer)
        losses["cvae"] = self.cvae_loss(batch)
        minimize(losses["cvae"], self.cvae_optimizer)
        losses["actor"] = self.actor_loss(batch)
        minimize(losses["actor"], self.actor_optimizer)
        polyak_update(self.critic, self.critic_target, self.hp.tau)
        polyak_update(self.actor, self.actor_target, self.hp.tau)
        polyak_update(self.cvae, self.cvae_target, self.hp.tau)
        return losses

    def critic_loss(self, batch: Batch) -> Tensor:
        """(Q1(s, a) - y)^2 + (Q2(s, a) - y)^2, batch mean, 0-d; y = r + gamma not_done V(s')."""
        with torch.no_grad():
            next_value = self.value(batch.next_state)
            target = td_target(batch, next_value, self.hp.discount)
        return td_loss(self.critic(batch.state, batch.action), target)

    def value_loss(self, batch: Batch) -> Tensor:
        """(V(s) - min(Q1', Q2')(s, a'))^2, batch mean, 0-d.

        a' is decoded from the target policy's latent action with clipped noise.
        """
        state = batch.state
        with torch.no_grad():
            latent = self.latent_action(self.actor_target, state)
            if not self.hp.no_noise:
                clip = self.hp.latent_noise_clip
                noise = torch.empty_like(latent).normal_(std=self.hp.latent_noise)
                latent = latent + noise.clamp(-clip, clip)
            target = torch.minimum(*self.critic_target(state, self.decode(state, latent)))
        return F.mse_loss(self.value(state), target)

    def cvae_loss(self, batch: Batch) -> Tensor:
        """w (|decoded a - a|^2 + KL(q(u|s, a) || N(0, 1))), batch mean, 0-d.

        The advantage-weighted lower bound of Chen et al.
        """
        with torch.no_grad():
            weight = self.weight(batch)
        mean, log_var = self.cvae.encode(batch.state, batch.action)
        latent = mean + (log_var / 2).exp() * torch.randn_like(mean)
        error = (self.cvae.decoder(batch.state, latent) - batch.action).square().sum(-1)
        return (weight * (error + kl_to_standard_normal(mean, log_var))).mean()

    def actor_loss(self, batch: Batch) -> Tensor:
        """-Q1(s, a) of the latent policy's decoded action, batch mean, 0-d (Chen et al.)."""
        state = batch.state
        action = self.decode(state, self.latent_action(self.actor, state))
        return -call_frozen(self.critic.q1, state, action).mean()

    def weight(self, batch: Batch) -> Tensor:
        return advantage_weight(self.advantage(batch), self.hp.scale, self.hp.weight_type)

    def advantage(self, batch: Batch) -> Tensor:
        """r + gamma not_done min(Q1', Q2')(s', pi'(s')) - V(s): (B,)."""
        latent = self.latent_action(self.actor_target, batch.next_state)
        next_action = self.decode(batch.next_state, latent)
        next_value = torch.minimum(*self.critic_target(batch.next_state, next_action))
        return td_target(batch, next_value, self.hp.discount) - self.value(batch.state)

    def latent_action(self, actor: MLP, state: Tensor) -> Tensor:
        """(B, S) -> (B, 2A) in [-max_latent_action, max_latent_action]."""
        return self.hp.max_latent_action * actor(state).tanh()

    def decode(self, state: Tensor, latent: Tensor) -> Tensor:
        """(B, S), (B, 2A) -> (B, A), by the target decoder."""
        return self.cvae_target.decoder(state, latent)

    def act(self, state: Tensor) -> Tensor:
        return self.decode(state, self.latent_action(self.actor, state))


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, var) || N(0, 1)), summed over the last dimension: (..., U) -> (...)."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(-1)
