"""Comparison of a file's content with what a fresh run has, before any of it is used."""

import math
from types import NoneType
from typing import Any, get_args

from torch import Tensor
from torch.optim import Optimizer

from speed import products
from utils import Policy

LARGEST_STEP = 2**53
MEAN = {"total": 0.0, "count": 0}
ROW_COLUMNS = {"step", "wall_time", "score_mean", "score_std", "return_mean", "return_std"}


def policy_difference(policy: Policy, state: Any) -> str | None:
    """The first way in which a saved state does not fit a policy, or None if it fits.

    Args:
        policy: of the same hyperparameters.
        state: to be loaded by `policy.load_state_dict`.
    """
    expected = policy.state_dict()
    if not isinstance(state, dict) or state.keys() != expected.keys():
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        return f"policy: holds {found}, not {sorted(expected)}"
    step = state["total_it"]
    if type(step) is not int or not 0 <= step <= LARGEST_STEP:
        return f"policy.total_it: {step!r} is not a number of train steps"
    for name, part in policy.parts().items():
        where = f"policy.{name}"
        if isinstance(part, Optimizer):
            problem = _optimizer_difference(part, state[name], where)
        else:
            problem = difference(expected[name], state[name], where)
        if problem:
            return problem
    return None


def checkpoint_difference(content: dict[str, Any], policy: Policy, generators: dict) -> str | None:
    """The first way in which a checkpoint's content does not fit a run, or None if it fits.

    Args:
        content: as `RunState.state_dict` returns it.
        policy: of the run.
        generators: the states of its random generators.
    """
    plain = {"evaluation_due": True, "seconds": 0.0, "run_id": "", "products": ""}
    for name, expected in plain.items():
        problem = difference(expected, content.get(name), name)
        if problem:
            return problem
    if content["products"] not in get_args(products.Library):
        return f"products: is {_outline(content['products'])}"
    return (
        policy_difference(policy, content.get("policy"))
        or _losses_difference(content.get("losses"))
        or _results_difference(content.get("results"), content["policy"]["total_it"])
        or _device_difference(content.get("generators"), generators)
        or difference(generators, content.get("generators"), "generators")
    )


def _device_difference(saved: Any, generators: dict) -> str | None:
    if not isinstance(saved, dict) or ("cuda" in saved) == ("cuda" in generators):
        return None
    if "cuda" in saved:
        return "it was written on a GPU, and this run has none"
    return "it was written on a CPU, and this run uses a GPU: CUDA_VISIBLE_DEVICES= hides it"


def _losses_difference(losses: Any) -> str | None:
    if not isinstance(losses, dict) or losses.keys() != {"logged", "since_eval", "window"}:
        return f"losses: is {_outline(losses)}"
    if not isinstance(losses["since_eval"], dict) or not isinstance(
        losses["logged"], (str, NoneType)
    ):
        return f"losses: is {_outline(losses)}"
    means = losses["since_eval"] | {"window": losses["window"]}
    problems = (difference(MEAN, mean, f"losses.{name}") for name, mean in means.items())
    return next(filter(None, problems), None)


def _results_difference(results: Any, step: int) -> str | None:
    if not isinstance(results, dict) or results.keys() != {"rows", "losses"}:
        return f"results: is {_outline(results)}"
    rows, losses = results["rows"], results["losses"]
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        return "results.rows: is not a list of evaluations"
    steps = [row["step"] for row in rows]
    if steps != sorted(set(steps)) or not all(0 <= one <= step for one in steps):
        return f"results.rows: steps {steps[-3:]} do not increase, or pass step {step}"
    if not isinstance(losses, list) or not all(_is_alike(0.0, loss) for loss in losses):
        return "results.losses: is not a list of numbers"
    return None


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not ROW_COLUMNS <= row.keys() or type(row["step"]) is not int:
        return False
    # The scores are finite; a value of a critic that diverges need not be.
    return all(_is_alike(0.0, row[name]) for name in ROW_COLUMNS) and all(
        isinstance(name, str) and type(value) in (int, float) for name, value in row.items()
    )


def difference(expected: Any, found: Any, where: str) -> str | None:
    """The first place in which two values differ in keys, lengths, shapes, dtypes or types.

    Numbers and tensors must be finite; their values may differ.
    """
    if isinstance(expected, Tensor):
        return _tensor_difference(expected, found, where)
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return f"{where}: holds {_outline(found)}, not {_outline(expected)}"
        parts = ((key, expected[key], found[key]) for key in expected)
    elif isinstance(expected, (list, tuple)):
        if type(found) is not type(expected) or len(found) != len(expected):
            return f"{where}: is {_outline(found)}, not {_outline(expected)}"
        parts = ((i, *pair) for i, pair in enumerate(zip(expected, found, strict=True)))
    else:
        return None if _is_alike(expected, found) else f"{where}: is {_outline(found)}"
    problems = (difference(a, b, f"{where}.{key}") for key, a, b in parts)
    return next(filter(None, problems), None)


def _tensor_difference(expected: Tensor, found: Any, where: str) -> str | None:
    if not isinstance(found, Tensor):
        return f"{where}: is {_outline(found)}, not a tensor"
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return f"{where}: is {_outline(found)}, not {_outline(expected)}"
    if not bool(found.isfinite().all()):
        return f"{where}: holds NaN or infinity"
    return None


def _is_alike(expected: Any, found: Any) -> bool:
    if isinstance(found, Tensor):  # a graph keeps the learning rate on the device
        return isinstance(expected, float) and found.numel() == 1 and math.isfinite(found.item())
    if isinstance(expected, bool) or isinstance(found, bool):
        return type(expected) is type(found)
    if isinstance(expected, (int, float)):
        return isinstance(found, (int, float)) and math.isfinite(found)
    return type(expected) is type(found)


def _optimizer_difference(optimizer: Optimizer, state: Any, where: str) -> str | None:
    """As `difference`; the moments, which a fresh optimiser lacks, have their parameter's shape."""
    if not isinstance(state, dict) or state.keys() != {"state", "param_groups"}:
        return f"{where}: is not the state of an optimiser"
    fresh = optimizer.state_dict()
    problem = difference(fresh["param_groups"], state["param_groups"], f"{where}.param_groups")
    if problem:
        return problem
    if not isinstance(state["state"], dict):
        return f"{where}.state: is {_outline(state['state'])}"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in state["state"].items():
        place = f"{where}.state.{index}"
        if type(index) is not int or not 0 <= index < len(parameters):
            return f"{place}: the policy has no such parameter"
        problem = _moments_difference(parameters[index], moments, place)
        if problem:
            return problem
    return None


def _moments_difference(parameter: Tensor, moments: Any, where: str) -> str | None:
    if not isinstance(moments, dict):
        return f"{where}: is {_outline(moments)}"
    for name, moment in moments.items():
        if isinstance(moment, Tensor):
            expected = parameter if moment.shape else moment
            problem = _tensor_difference(expected.detach(), moment, f"{where}.{name}")
            if problem:
                return problem
        elif moment is not None and not _is_alike(0.0, moment):
            return f"{where}.{name}: is {_outline(moment)}"
    return None


def _outline(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {sorted(map(str, value))[:20]}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    return repr(value)[:80]
