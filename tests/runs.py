"""Runs of the main job that several tests start."""

import contextlib
import csv
import io
from pathlib import Path

import torch
from programs import exit_code

from experiment.files import read_content
from experiment.options import parse
from experiment.signals import StopSignals
from main_training import Training, main

ROOT = Path(__file__).parents[1]


def run_command(dataset, *more, policy="AWAC", steps=20, eval_freq=10, c_loss_freq=10):
    """A small run's command line; options in `more` win."""
    return [
        *("--policy", policy, "--env", "hopper-medium-v2", "--source", str(dataset)),
        *("--max_timesteps", str(steps), "--eval_freq", str(eval_freq)),
        *("--c_loss_freq", str(c_loss_freq), "--batch_size", "16", "--hidden", "8", "8", *more),
    ]


def make_training(argv):
    """A run that has not begun."""
    return Training(parse(argv), StopSignals())


def one_file(pattern, folder="."):
    """The only file that matches."""
    (path,) = Path(folder).glob(pattern)
    return path


def rows_of(pattern="results/*/*.csv"):
    """The rows of the only CSV that matches."""
    with one_file(pattern).open() as file:
        return list(csv.DictReader(file))


def exit_code_and_errors(argv):
    """Run the main job in this process: its exit code and the lines on stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = exit_code(main, argv)
    return code, errors.getvalue().splitlines()


def networks_in(model):
    """The tensors of a model's actor, by name."""
    return read_content(Path(model))["policy"]["actor"]


def same_tensors(first, second):
    """Whether two dicts of tensors are equal bit by bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name].cpu(), second[name].cpu()) for name in first
    )
