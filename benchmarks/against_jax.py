"""Our train steps of IQL and AWAC, also compiled, beside the same updates as a jitted scan in JAX.

    pip install -r benchmarks/requirements-jax.txt
    python -m benchmarks.against_jax --threads 1

All start from the same weights. Each trains in a process of its own, by turns, with its data on
the device and as many processors as threads: a scan of 200 steps by JAX, 200 steps of ours. A step
draws its batch and updates every network, the policy included (`policy_freq` 1). Then one step of
ours and one of JAX's, on the same batch and noise, are compared: losses and networks agree to
rounding.
"""

import functools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.train_step import make_buffer, refuse, seconds
from d4rl_tasks.command_line import Parser
from experiment.options import policy_class, policy_module
from speed.compiled import CompiledTraining
from utils import MLP, Batch, Policy, ReplayBuffer, RunSpec

STATE_DIM, ACTION_DIM, BATCH_SIZE = 17, 6, 256
STEPS = 200  # of a scan
TRAIN_STEPS = 1_000_000  # of the learning rate's schedule
POLICIES = ("IQL", "AWAC")

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # where ours run, also if there is a GPU

State = dict[str, Any]  # of networks, as JAX's arrays, and of optimisers
Update = Callable[[State, State, Any], tuple[State, dict[str, Any]]]


def weights_of(network: nn.Module) -> list[list[tuple[Any, Any]]]:
    """(I, O) and (O,) of every layer, of every MLP of a network."""
    mlps = [part for part in network.modules() if isinstance(part, MLP)]
    return [
        [
            (np.ascontiguousarray(layer.weight.detach().T), layer.bias.detach().numpy().copy())
            for layer in mlp.modules()
            if isinstance(layer, nn.Linear)
        ]
        for mlp in mlps
    ]


def networks_of(policy: Policy) -> State:
    """The weights of every network of a policy, by the network's name."""
    return {name: weights_of(network) for name, network in policy.networks().items()}


def forward(layers, input):
    """An MLP with ReLU between its layers: (..., I) -> (..., O)."""
    import jax

    *hidden, (weight, bias) = layers
    for one, offset in hidden:
        input = jax.nn.relu(input @ one + offset)
    return input @ weight + bias


def twins(critic, state, action):
    """Q1(s, a) and Q2(s, a): twice (...)."""
    import jax.numpy as jnp

    both = jnp.concatenate([state, action], -1)
    return [forward(layers, both)[..., 0] for layers in critic]


def gaussian(actor, state):
    """Mean and standard deviation of the policy, (..., A) each."""
    import jax.numpy as jnp

    mean, head = jnp.split(forward(actor[0], state), 2, -1)
    return jnp.tanh(mean), jnp.exp(-2.5 + 2.5 * jnp.tanh(jnp.tanh(head)))


def regression(actor, batch, weight):
    """-w log pi(a|s), batch mean."""
    import jax.numpy as jnp

    mean, std = gaussian(actor, batch["state"])
    error = (batch["action"] - mean) / std
    log_prob = -(error**2 / 2 + jnp.log(std) + np.log(2 * np.pi) / 2).sum(-1)
    return -(weight * log_prob).mean()


def advantage_weight(advantage, scale: float):
    """utils.advantage_weight's "adapt": (B,) -> (B,)."""
    import jax.numpy as jnp

    width = advantage.max() - advantage.min()
    weight = jnp.exp(scale * (advantage - advantage.max()) / width)
    return weight / weight.mean()


def td_loss(critic, batch, target):
    """Mean squared error of each twin, summed."""
    values = twins(critic, batch["state"], batch["action"])
    return sum(((value - target) ** 2).mean() for value in values)


def td_target(batch, next_value, discount: float):
    """r + discount not_done V(s')."""
    return batch["reward"] + discount * batch["not_done"] * next_value


def make_optimizers(names: tuple[str, ...], learning_rate: float, cosine: tuple[str, ...]) -> State:
    """Adam for every network of `names`; the rate of those in `cosine` decays over the run."""
    import optax

    schedule = optax.cosine_decay_schedule(learning_rate, TRAIN_STEPS)
    return {name: optax.adam(schedule if name in cosine else learning_rate) for name in names}


def descend(optimizers: State, state: State, name: str, loss: Callable, *arguments):
    """One step of a network's optimiser; returns the new state and the loss."""
    import jax
    import optax

    value, gradient = jax.value_and_grad(loss)(state[name], *arguments)
    change, inner = optimizers[name].update(gradient, state["optimizers"][name])
    new = {name: optax.apply_updates(state[name], change)}
    return state | new | {"optimizers": state["optimizers"] | {name: inner}}, value


def follow(state: State, name: str, tau: float) -> State:
    """One Polyak step of a network's target."""
    import jax

    step = jax.tree.map(
        lambda old, new: old + tau * (new - old), state[f"{name}_target"], state[name]
    )
    return state | {f"{name}_target": step}


def iql(hp: Any, optimizers: State) -> Update:
    """IQL.update, with every network updated in every step."""
    import jax.numpy as jnp

    def value_loss(value, batch, target):
        error = target - forward(value[0], batch["state"])[..., 0]
        return (jnp.abs(hp.expectile - (error < 0)) * error**2).mean()

    def update(state, batch, noise):
        target_value = jnp.minimum(*twins(state["critic_target"], batch["state"], batch["action"]))
        state, value = descend(optimizers, state, "value", value_loss, batch, target_value)
        next_value = forward(state["value"][0], batch["next_state"])[..., 0]
        target = td_target(batch, next_value, hp.discount)
        state, critic = descend(optimizers, state, "critic", td_loss, batch, target)
        advantage = target_value - forward(state["value"][0], batch["state"])[..., 0]
        weight = advantage_weight(advantage, hp.scale)
        state, actor = descend(optimizers, state, "actor", regression, batch, weight)
        return follow(state, "critic", hp.tau), {"value": value, "critic": critic, "actor": actor}

    return update


def awac(hp: Any, optimizers: State) -> Update:
    """AWAC.update, with every network updated in every step; `noise` is of both its samples."""
    import jax.numpy as jnp

    def update(state, batch, noise):
        mean, std = gaussian(state["actor"], batch["next_state"])
        next_action = mean + std * noise[0]
        next_value = jnp.minimum(*twins(state["critic_target"], batch["next_state"], next_action))
        target = td_target(batch, next_value, hp.discount)
        state, critic = descend(optimizers, state, "critic", td_loss, batch, target)
        mean, std = gaussian(state["actor_target"], batch["state"])
        actions = jnp.concatenate([batch["action"][None], mean + std * noise[1:]])
        states = jnp.broadcast_to(batch["state"], (*actions.shape[:2], STATE_DIM))
        values = jnp.minimum(*twins(state["critic"], states, actions))
        weight = advantage_weight(values[0] - values[1:].mean(0), hp.scale)
        state, actor = descend(optimizers, state, "actor", regression, batch, weight)
        state = follow(follow(state, "critic", hp.tau), "actor", hp.tau)
        return state, {"critic": critic, "actor": actor}

    return update


def make_ours(name: str) -> Policy:
    """Our policy, which updates all its networks in every step."""
    spec = RunSpec(STATE_DIM, ACTION_DIM, train_steps=TRAIN_STEPS)
    own = {"log_std": "state"} if name == "IQL" else {}  # as AWAC's: `gaussian` below
    hyperparameters = policy_module(name).Hyperparameters(policy_freq=1, **own)
    return policy_class(name)(spec, hyperparameters)


def make_jax(policy: Policy) -> tuple[Update, State]:
    """The same policy in JAX: its update, and a state with the same weights."""
    import jax
    import jax.numpy as jnp

    name = type(policy).__name__
    trained = ("value", "critic", "actor") if name == "IQL" else ("critic", "actor")
    cosine = ("actor",) if name == "IQL" else ()
    optimizers = make_optimizers(trained, policy.hp.learning_rate, cosine)
    state = jax.tree.map(jnp.asarray, networks_of(policy))
    state["optimizers"] = {one: optimizers[one].init(state[one]) for one in trained}
    return {"IQL": iql, "AWAC": awac}[name](policy.hp, optimizers), state


def make_scan(update: Update, buffer: ReplayBuffer) -> Callable[[State, Any], State]:
    """A jitted scan of STEPS updates, which draws batches and noise itself."""
    import jax
    import jax.numpy as jnp

    rows = jnp.asarray(buffer.rows.numpy())
    ends = np.cumsum([STATE_DIM, ACTION_DIM, STATE_DIM, 1])

    def step(state, key):
        of_index, of_noise = jax.random.split(key)
        index = jax.random.randint(of_index, (BATCH_SIZE,), 0, len(rows))
        parts = jnp.split(rows[index], ends, -1)
        batch = dict(zip(Batch._fields, parts, strict=True))
        batch |= {one: batch[one][:, 0] for one in ("reward", "not_done")}
        noise = jax.random.normal(of_noise, (6, BATCH_SIZE, ACTION_DIM))
        return update(state, batch, noise)

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, key):
        return jax.lax.scan(step, state, jax.random.split(key, STEPS))[0]

    return scan


def check(policy: Policy, buffer: ReplayBuffer) -> float:
    """The largest difference after one step of both, of a loss (relative) or a network's weights.

    Of a layer's weights this is the mean: where a gradient is nothing but rounding, Adam's first
    step has its sign and the length of the learning rate.

    Raises:
        AssertionError: it is more than rounding.
    """
    import jax
    import jax.numpy as jnp

    update, state = make_jax(policy)
    batch = buffer.fixed_sample(BATCH_SIZE, seed=0)
    torch.manual_seed(0)
    noise = torch.cat(
        [torch.randn(1, BATCH_SIZE, ACTION_DIM), torch.randn(5, BATCH_SIZE, ACTION_DIM)]
    )
    arrays = {name: jnp.asarray(part.numpy()) for name, part in batch._asdict().items()}
    state, theirs = jax.jit(update)(state, arrays, jnp.asarray(noise.numpy()))
    torch.manual_seed(0)
    ours = policy.update(batch)
    differences = [abs(float(ours[name].detach()) / float(theirs[name]) - 1) for name in theirs]
    for name, weights in networks_of(policy).items():
        pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(state[name]), strict=True)
        differences += [float(np.abs(one - other).mean()) for one, other in pairs]
    assert max(differences) < 1e-5, differences
    return max(differences)


def begin(threads: int) -> None:
    """Give a process as many processors as threads: JAX has no other option for its own."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    torch.manual_seed(0)


@functools.cache
def training_of_ours(name: str, is_compiled: bool) -> Callable[[], object]:
    """Our train step."""
    policy, buffer = make_ours(name), make_buffer(STATE_DIM, ACTION_DIM)
    if not is_compiled:
        return lambda: policy.train(buffer, BATCH_SIZE)
    training = CompiledTraining(policy, buffer, BATCH_SIZE, refuse)
    return lambda: training(1)


def time_ours(name: str, is_compiled: bool) -> float:
    """Seconds of a step of ours."""
    return seconds(training_of_ours(name, is_compiled), STEPS)


@functools.cache
def training_of_jax(name: str) -> Callable[[], object]:
    """JAX's scan of STEPS train steps."""
    import jax

    update, state = make_jax(make_ours(name))
    scan = make_scan(update, make_buffer(STATE_DIM, ACTION_DIM))
    states = [state]
    return lambda: states.append(jax.block_until_ready(scan(states.pop(), jax.random.key(0))))


def time_jax(name: str) -> float:
    """Seconds of a step of JAX's."""
    return seconds(training_of_jax(name), 1) / STEPS


def measure(name: str, threads: int, repeats: int) -> np.ndarray:
    """Seconds of a step of ours, of ours compiled and of JAX's, by turns: (3, repeats).

    Each has a process of its own.
    """
    context = multiprocessing.get_context("spawn")
    make_process = functools.partial(
        ProcessPoolExecutor, 1, context, initializer=begin, initargs=(threads,)
    )
    with make_process() as ours, make_process() as compiled, make_process() as jax:
        times = [
            (
                ours.submit(time_ours, name, False).result(),
                compiled.submit(time_ours, name, True).result(),
                jax.submit(time_jax, name).result(),
            )
            for _ in range(repeats + 1)
        ]
    return np.array(times[1:]).T  # the first turns compile


def compare(name: str) -> float:
    """The largest difference of a first step: see `check`."""
    return check(make_ours(name), make_buffer(STATE_DIM, ACTION_DIM))


def main() -> None:
    """Compare and measure both policies, and print a Markdown table."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    print("| step | threads | ours, ms | compiled, ms | JAX, ms | JAX / compiled | difference |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.policies:
        ours, compiled, jax = measure(name, arguments.threads, arguments.repeats)
        print(
            f"| {name} | {arguments.threads} | {np.median(ours) * 1e3:.1f} "
            f"| {np.median(compiled) * 1e3:.1f} | {np.median(jax) * 1e3:.1f} "
            f"| {np.median(jax / compiled):.2f} | {compare(name):.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
