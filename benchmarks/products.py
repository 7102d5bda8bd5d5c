"""Time of the matrix products of one layer, by library, on one core.

    python -m benchmarks.products

A batch of 256 rows goes through a layer of 256 by 256, forward and back, by oneDNN, by PyTorch's
BLAS, by NumPy's and, if it is installed, by JAX. The libraries take turns; the table has medians
in microseconds.
"""

import os

SIZE = 256
CALLS, TURNS = 50, 100

if __name__ == "__main__":  # before the libraries start their threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.train_step import seconds
from d4rl_tasks.command_line import Parser
from speed import products

PRODUCTS = ("forward", "gradient of the weight", "gradient of the input")
Calls = tuple[Callable[[], object], ...]  # one for each of PRODUCTS


def calls_of_onednn(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Calls:
    """As `speed.products` calls it where it is the faster library."""
    return (
        lambda: products.onednn_linear(rows, weight, bias),
        lambda: products.onednn_linear(rows.t(), rows.t(), None),
        lambda: products.onednn_linear(rows, weight.t(), None),
    )


def calls_of_blas(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Calls:
    """PyTorch's own: MKL on x86."""
    return (
        lambda: F.linear(rows, weight, bias),
        lambda: F.linear(rows.t(), rows.t()),
        lambda: F.linear(rows, weight.t()),
    )


def calls_of_numpy(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Calls:
    """NumPy's BLAS: OpenBLAS in its wheels."""
    x, w, b = rows.numpy(), weight.numpy(), bias.numpy()
    return lambda: x @ w.T + b, lambda: x.T @ x, lambda: x @ w


def calls_of_jax(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Calls:
    """Jitted, one by one.

    Raises:
        ImportError: JAX is not installed.
    """
    import jax

    x, w, b = (jax.numpy.asarray(one.numpy()) for one in (rows, weight, bias))
    functions = (
        jax.jit(lambda x, w, b: x @ w.T + b),
        jax.jit(lambda x, w, b: x.T @ x),
        jax.jit(lambda x, w, b: x @ w),
    )
    return tuple(lambda one=one: jax.block_until_ready(one(x, w, b)) for one in functions)


LIBRARIES = {
    "oneDNN": calls_of_onednn,
    "PyTorch's BLAS": calls_of_blas,
    "NumPy's BLAS": calls_of_numpy,
    "JAX": calls_of_jax,
}


def make_calls() -> dict[str, Calls]:
    """The calls of each library that is here, on the same numbers."""
    torch.manual_seed(0)
    numbers = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE), torch.randn(SIZE)
    calls = {}
    for name, make in LIBRARIES.items():
        if name == "oneDNN" and not products.has_onednn():
            continue
        try:
            calls[name] = make(*numbers)
        except ImportError as error:
            print(f"without {name}: {error}")
    return calls


def measure(calls: dict[str, Calls], turns: int) -> dict[str, np.ndarray]:
    """Median seconds of a call of each library, (3,) in the order of PRODUCTS."""
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, three in calls.items():
            times[name].append([seconds(call, CALLS) for call in three])
    return {name: np.median(found[1:], axis=0) for name, found in times.items()}


def main() -> None:
    """Measure, and print a Markdown table."""
    Parser(description=__doc__.split("\n", 1)[0]).parse_args()
    torch.set_num_threads(1)
    times = measure(make_calls(), TURNS)
    print(f"| | {' | '.join(times)} |")
    print(f"|---|{'---|' * len(times)}")
    for place, product in enumerate(PRODUCTS):
        cells = " | ".join(f"{1e6 * found[place]:.0f}" for found in times.values())
        print(f"| {product} | {cells} |")


if __name__ == "__main__":
    main()
