"""The command line of a run. Every hyperparameter of a policy is an option of the same name."""

import argparse
import dataclasses
import functools
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import torch

import d4rl_tasks
from d4rl_tasks import minari_tasks, ogbench_tasks, original
from d4rl_tasks.command_line import Parser, boolean, number
from experiment.errors import RunError
from experiment.loggers import LOGGERS
from utils import Policy

POLICIES = ("DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC", "LP_AWAC")
# Where environments, datasets and scores come from.
BACKENDS: dict[str, ModuleType] = {
    "d4rl_tasks": d4rl_tasks,
    "d4rl": original,
    "minari": minari_tasks,
    "ogbench": ogbench_tasks,
}
DEFAULT_POLICY = "DMPO_ant"


@dataclass(frozen=True)
class Options:
    """A parsed command line.

    Attributes:
        run: the run's own options, by name.
        hyperparameters: the policy's, with those given on the command line.
        ignored: hyperparameters that were given but belong to other policies.
        arguments: the words of the command line.
    """

    run: argparse.Namespace
    hyperparameters: Any
    ignored: tuple[str, ...]
    arguments: tuple[str, ...]


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read a command line (`sys.argv` for None). Bad input ends the program with one line."""
    words = tuple(sys.argv[1:] if argv is None else argv)
    policy = _policy_of(words)
    found = vars(make_parser(policy).parse_args(words))
    given = {name: found.pop(name) for name in hyperparameter_types() if name in found}
    known = hyperparameters_of(policy)
    own = {name: value for name, value in given.items() if hasattr(known, name)}
    return Options(
        argparse.Namespace(**found),
        dataclasses.replace(known, **own),
        tuple(name for name in given if name not in own),
        words,
    )


def policy_module(name: str) -> ModuleType:
    """The module of a policy: its `Hyperparameters` and a class of the policy's name."""
    return importlib.import_module(name)


def policy_class(name: str) -> type[Policy]:
    """The class of a policy."""
    return getattr(policy_module(name), name)


def hyperparameters_of(policy: str) -> Any:
    """A policy's hyperparameters with their defaults, as its source has them.

    A float that was written as 10 is 10.0, as the command line reads it: both are one run.
    """
    known = policy_module(policy).Hyperparameters()
    kinds = typing.get_type_hints(type(known))
    whole = {name: value for name, value in vars(known).items() if isinstance(value, int)}
    floats = {name: float(value) for name, value in whole.items() if kinds.get(name) is float}
    return dataclasses.replace(known, **floats)


def hyperparameter_types(first: str = DEFAULT_POLICY) -> dict[str, Any]:
    """The annotations of all policies' hyperparameters by name; those of `first` win."""
    types: dict[str, Any] = {}
    for policy in (first, *POLICIES):
        kinds = typing.get_type_hints(policy_module(policy).Hyperparameters, include_extras=True)
        types = kinds | types
    return types


def choose_device(device_id: int) -> torch.device:
    """The GPU of that number; for -1 the first GPU, or the CPU where there is none."""
    count = torch.cuda.device_count()
    if device_id >= count:
        raise RunError(f"--device_id {device_id}: this machine has {count} GPUs; -1 takes any")
    return torch.device("cuda", max(device_id, 0)) if count else torch.device("cpu")


def make_parser(policy: str = DEFAULT_POLICY) -> Parser:
    """The command line; a hyperparameter that is not given is absent from what it parses."""
    parser = Parser(
        description="Train and evaluate a policy on a D4RL task.", usage="%(prog)s [options]"
    )
    _add_run_options(parser)
    _add_result_options(parser)
    _add_data_options(parser)
    group = parser.add_argument_group(
        "hyperparameters (those of another policy are ignored; see the top of the policy's file)"
    )
    taken = {action.dest for action in parser._actions}
    for name, kind in hyperparameter_types(policy).items():
        if name in taken:
            raise RunError(f"a policy's hyperparameter {name} has the name of an option: rename it")
        group.add_argument(
            f"--{name}", default=argparse.SUPPRESS, help=_help_of(name), **_argument_of(name, kind)
        )
    return parser


def _policy_of(words: Sequence[str]) -> str:
    parser = Parser(add_help=False)
    parser.add_argument("--policy", type=policy_name, default=DEFAULT_POLICY)
    return parser.parse_known_args(words)[0].policy


def policy_name(text: str) -> str:
    """A type for argparse: a policy's name in any case."""
    for name in POLICIES:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"unknown policy {text!r}: choose from {', '.join(POLICIES)}")


def _add_run_options(parser: Parser) -> None:
    add = _adder(parser, "run")
    add("--policy", policy_name, DEFAULT_POLICY, ", ".join(POLICIES))
    add("--env", str, "antmaze-large-diverse-v0", "a D4RL task, or one of --backend's")
    add("--source", str, "auto", "dataset: auto, d4rl, synthetic, ogbench, minari:ID or a path")
    add(
        "--backend",
        str,
        "d4rl_tasks",
        "where --env is looked up: in this repository, gym and d4rl, Minari or OGBench",
        choices=BACKENDS,
    )
    add("--seed", number(int, 0, 2**31), 1, "of everything that is random")
    steps_help = "train steps; more continue a finished run (not IQL's)"
    add("--max_timesteps", number(int, 1), 1_000_000, steps_help)
    add("--device_id", number(int, -1), -1, "number of the GPU; -1: the first, or the CPU")
    add("--no_cuda_graph", _SWITCH, False, "run train steps one by one on a GPU")
    add("--compile", _SWITCH, False, "compile train steps on a CPU (needs a C++ compiler)")


def _add_result_options(parser: Parser) -> None:
    add = _adder(parser, "results (none of these changes what is computed)")
    positive = number(int, 1)
    add("--eval_freq", positive, 5_000, "train steps between evaluations")
    add(
        "--eval_episodes",
        positive,
        None,
        "episodes of an evaluation (default: 10; antmaze's last: 100)",
    )
    add("--c_loss_freq", positive, 5_000, "train steps averaged in a line of the loss log")
    add("--checkpoint_freq", positive, None, "train steps between checkpoints (default: eval_freq)")
    add("--fresh", _SWITCH, False, "start over and set the files of an earlier run aside")
    add("--save_model", boolean, True, "write models/<run>.safetensors", nargs="?", const=True)
    add("--save_best", _SWITCH, False, "keep the model of the best evaluation too")
    add("--results_dir", Path, Path("results"), "folder of scores and settings")
    add("--name", _file_name, "", "prefix of the run's name")
    add("--logger", str, None, "(default: tensorboard, if it is installed)", choices=LOGGERS)
    add("--project", str, None, "W&B's project (default: $WANDB_PROJECT, or dmpo)")
    add("--group", str, None, "W&B's group (default: policy and task)")


def _add_data_options(parser: Parser) -> None:
    add = _adder(parser, "training")
    add("--batch_size", number(int, 1, 1_000_000), 256, "transitions of a train step")
    add("--normalize", boolean, True, "normalise states by mean and std", nargs="?", const=True)
    parser.add_argument(
        "--no_normalize", dest="normalize", action="store_false", help=argparse.SUPPRESS
    )
    add(
        "--load_model",
        _model_path,
        "",
        "start from the weights of this saved model; `default`: this run's own",
    )


_SWITCH = object()


def _adder(parser: Parser, title: str) -> Callable[..., None]:
    group = parser.add_argument_group(title)

    def add(name: str, kind: Any, default: Any, text: str, **settings) -> None:
        if kind is _SWITCH:
            settings["action"] = "store_true"
        else:
            settings["type"] = kind
        shown = "" if default in (None, False, "") else " (default: %(default)s)"
        group.add_argument(name, default=default, help=text + shown, **settings)

    return add


def _model_path(text: str) -> str:
    if text not in ("", "default") and not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"{text} is not a file: give the path of a .safetensors file"
        )
    return text


def _file_name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{0,80}", text) or text.startswith("."):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give at most 80 letters, digits, _, - and ., not beginning with a dot"
        )
    return text


def _argument_of(name: str, kind: Any) -> dict[str, Any]:
    """The arguments of `add_argument` for an annotation, such as `Fraction` or `bool`.

    Raises:
        RunError: no option can be made of it.
    """
    if kind is bool:
        return {"type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if typing.get_origin(kind) is Literal:
        return {"choices": typing.get_args(kind)}
    if typing.get_origin(kind) is tuple:
        return {"type": _type_of(name, typing.get_args(kind)[0]), "nargs": "+", "action": _AsTuple}
    return {"type": _type_of(name, kind)}


def _type_of(name: str, kind: Any) -> Callable[[str], Any]:
    if typing.get_origin(kind) is Annotated:
        base, bounds = typing.get_args(kind)
        return number(base, bounds.low, bounds.high, open_low=bounds.open_low)
    if kind in (int, float):
        return number(kind)
    if kind is not str:
        raise RunError(
            f"the hyperparameter {name} is annotated as {kind}: use bool, int, float, str, a "
            "Literal, or a tuple of numbers"
        )
    return kind


class _AsTuple(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values))


def _help_of(name: str) -> str:
    """Which policies have a hyperparameter, the comment beside it, and its defaults."""
    owners = [policy for policy in POLICIES if hasattr(hyperparameters_of(policy), name)]
    defaults = {policy: getattr(hyperparameters_of(policy), name) for policy in owners}
    usual = defaults[owners[0]]
    shown = [_as_typed(usual)]
    shown += [
        f"{policy}: {_as_typed(value)}" for policy, value in defaults.items() if value != usual
    ]
    comment = _comments(policy_module(owners[0]).Hyperparameters).get(name, "")
    policies = "" if len(owners) == len(POLICIES) else f"{', '.join(owners)}: "
    return f"{policies}{comment} (default: {'; '.join(shown)})".replace("%", "%%").strip()


def _as_typed(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return repr(value) if value == "" else str(value)


@functools.cache
def _comments(hyperparameters: type) -> dict[str, str]:
    """The comment beside each field of a dataclass, by the field's name."""
    try:
        source = inspect.getsource(hyperparameters)
    except OSError:  # the class does not come from a file
        return {}
    return dict(re.findall(r"^ +(\w+):[^#\n]*# *(.+)$", source, re.MULTILINE))
