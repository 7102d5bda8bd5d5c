"""The specification's formulas in plain float64 NumPy, which the policies are compared with.

Nothing here calls the code under test: of a network only its weights are read.
"""

import numpy as np
from torch import nn


def layers(network: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of every linear layer, in order."""
    arrays = {name: value.double().numpy() for name, value in network.state_dict().items()}
    names = [name.removesuffix("weight") for name in arrays if name.endswith("weight")]
    return [(arrays[f"{name}weight"], arrays[f"{name}bias"]) for name in names]


def linear(x, layer):
    weight, bias = layer
    return x @ weight.T + bias


def relu(x):
    return np.maximum(x, 0)


def mlp(network, *inputs):
    """Linear layers with ReLU between them, on the concatenated inputs."""
    x = np.concatenate(inputs, axis=-1)
    *hidden, last = layers(network)
    for layer in hidden:
        x = relu(linear(x, layer))
    return linear(x, last)


def value(network, state):
    return mlp(network, state)[:, 0]


def twins(network, state, action):
    """Q1 and Q2: (2, B)."""
    return np.stack([mlp(q, state, action)[:, 0] for q in (network.q1, network.q2)])


def minimum(values):
    return values.min(axis=0)


def soft_minimum(values, share=0.7):
    return share * values.min(axis=0) + (1 - share) * values.max(axis=0)


def log_softmax(x):
    return x - logsumexp(x)[..., None]


def logsumexp(x):
    largest = x.max(axis=-1)
    return largest + np.log(np.exp(x - largest[..., None]).sum(axis=-1))


def latent_action(actor, state, latent):
    """mu(s, z) of DMPO."""
    embedded = relu(linear(latent, *layers(actor.embedding)))
    return actor.max_action * np.tanh(mlp(actor.network, state, embedded))


def gaussian(actor, *inputs):
    """Mean and standard deviation of a Gaussian actor."""
    if actor.kind == "global":
        mean = mlp(actor.network, *inputs)
        log_std = soft_clamp(actor.log_std.detach().numpy() / 2, -5, 2)
        return actor.max_action * np.tanh(mean), np.broadcast_to(np.exp(log_std), mean.shape)
    mean, log_std = np.split(mlp(actor.network, *inputs), 2, axis=-1)
    log_std = soft_clamp(np.tanh(log_std))
    if actor.kind == "release":
        log_std = soft_clamp(log_std)
    return actor.max_action * np.tanh(mean), np.exp(log_std)


def soft_clamp(log_std, low=-5, high=0):
    return low + (high - low) / 2 * (np.tanh(log_std) + 1)


def normal_log_density(action, mean, std):
    """Independent Normals, summed over the action's dimensions."""
    error = (action - mean) / std
    return (-(error**2) / 2 - np.log(std) - np.log(2 * np.pi) / 2).sum(axis=-1)


def mixture_component(actor, state, latent):
    """Mean and standard deviation of mixAWAC's components named by one-hot latents."""
    return gaussian(actor.gaussian, state, relu(linear(latent, *layers(actor.embedding))))


def advantage_weight(advantage, scale, weight_type=""):
    if scale == 0:
        return np.ones_like(advantage)
    if weight_type == "clamp":
        # The exponent is bounded first, so that NumPy does not overflow: exp(5) > 100.
        return np.exp(np.minimum(scale * advantage, 5)).clip(0, 100)
    below_best = advantage - advantage.max()
    width = advantage.max() - advantage.min()
    if weight_type != "raw" and width > 0:
        below_best = below_best / width
    weight = np.exp(scale * below_best)
    return weight / weight.mean()


def td_loss(values, target):
    """MSE(Q1, y) + MSE(Q2, y)."""
    return sum(((value - target) ** 2).mean() for value in values)
