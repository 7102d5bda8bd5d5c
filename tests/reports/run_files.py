"""Files of runs that nobody trained, written as main_training.py writes them."""

import csv
import json
from types import SimpleNamespace

import torch

from experiment.options import parse
from experiment.settings import describe_run, make_settings, run_name
from reports.groups import group_runs
from reports.runs import read_runs
from reports.tables import csv_table, markdown
from reports.whole import summarize


def write_run(
    folder,
    options="--policy AWAC --env hopper-medium-v2",
    scores=(0.1, 0.2, 0.3),
    *,
    seed=1,
    every=1,
    sha256="a" * 64,
    synthetic=False,
    load_model=None,
    columns=None,
    stem=None,
    **changes,
):
    """Write <folder>/<policy>/<run>.json and .csv; returns the JSON's path.

    Args:
        options: the command line, except the seed and the number of train steps.
        scores: of the evaluations.
        every: train steps between them.
        sha256: of the dataset.
        load_model: SHA-256 of the model that the run starts from.
        columns: of the CSV by name, besides the scores and the critic loss (2).
        stem: of the files' names.
        changes: of the JSON, by key.
    """
    steps = [every * number for number in range(1, len(scores) + 1)]
    words = [*options.split(), "--seed", str(seed), "--max_timesteps", str(steps[-1])]
    parsed = parse(words)
    dataset = SimpleNamespace(
        source="file",
        path="hopper.hdf5",
        synthetic=synthetic,
        rewards=range(3),
        size=1,
        sha256=sha256,
    )
    settings = make_settings(parsed, dataset, load_model)
    name = run_name(settings, dataset)
    config = describe_run(name, settings, parsed, dataset, torch.device("cpu")) | changes
    path = folder / settings["policy"] / f"{stem or name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    content = {"step": steps, "score_mean": scores, "critic_loss": [2.0] * len(steps)}
    write_columns(path, content | (columns or {}))
    return path


def write_columns(path, columns):
    """Replace the CSV of a run, given by its JSON."""
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def change(path, **settings):
    """Change settings in a run's JSON."""
    config = json.loads(path.read_text())
    config["settings"] |= settings
    path.write_text(json.dumps(config))


def groups_of(results):
    """The report's groups, and lines on the runs that it leaves out."""
    runs, left_out = read_runs(results)
    return group_runs(runs), left_out


def report(results):
    """The report's Markdown and the lines of its CSV, without the figures."""
    summary = summarize(results)
    lines = csv.DictReader(csv_table(summary.groups).splitlines())
    return markdown(summary.tables, summary.notes), list(lines)
