"""TensorBoard and W&B get what the CSV has, once, whatever interruptions there were."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import ROOT, exit_code_and_errors, make_training, rows_of, run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiment import loggers
from experiment.errors import RunError, StoppedError
from main_training import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def command(hopper, *more):
    return run_command(hopper, *more, policy="IQL", steps=40)


def events():
    (folder,) = (path for path in Path("tensorboard").iterdir() if path.name != "old")
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def check_scalars(logged):
    """`logged` gives (step, value) pairs by name."""
    rows = rows_of("results/IQL/*.csv")
    steps = [int(row["step"]) for row in rows]
    expected = {
        "eval/d4rl_normalized_score": [100 * float(row["score_mean"]) for row in rows],
        "eval/d4rl_normalized_score_std": [100 * float(row["score_std"]) for row in rows],
        "eval/episodic_return": [float(row["return_mean"]) for row in rows],
        "eval/episodic_return_std": [float(row["return_std"]) for row in rows],
        "charts/SPS": [float(row["step"]) / float(row["wall_time"]) for row in rows],
        **{
            f"train/{name}_loss": [float(row[f"{name}_loss"]) for row in rows]
            for name in ("critic", "actor", "value")
        },
    }
    for name, values in expected.items():
        assert [step for step, _ in logged(name)] == steps
        assert [value for _, value in logged(name)] == pytest.approx(values, rel=1e-6)


def test_the_folder_of_a_run_is_not_taken_for_the_package(monkeypatch):
    for package in ("tensorboard", "wandb"):
        Path(package).mkdir()
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "path", [str(Path.cwd())])  # nothing else can be found
    importlib.invalidate_caches()
    assert loggers.choose_logger(None) == "none"
    with pytest.raises(RunError, match="pip install wandb"):
        loggers.choose_logger("wandb")


def test_a_signal_is_not_an_error_of_the_logger(capsys):
    class Stopped(loggers.NoLogger):
        def evaluated(self, row):
            raise StoppedError(15, "stopped")

    with pytest.raises(StoppedError):
        loggers.TolerantLogger(Stopped()).evaluated({})
    assert capsys.readouterr().err == ""


def test_tensorboard_is_the_default_and_has_what_the_csv_has(hopper):
    assert main(command(hopper)) == 0
    accumulator = events()
    check_scalars(lambda name: [(e.step, e.value) for e in accumulator.Scalars(name)])
    assert "config/text_summary" in accumulator.Tags()["tensors"]
    hparams = accumulator.PluginTagToContent("hparams")
    for name in (b"expectile", b"policy", b"env", b"seed"):
        assert name in hparams["_hparams_/session_start_info"]
    assert sorted(accumulator.Tags()["images"]) == [
        *("figures/critic_loss", "figures/critic_loss_accumulated"),
        *("figures/diagnostics", "figures/learning_curves"),
    ]


def test_a_mixture_is_logged_with_its_components(hopper):
    argv = command(hopper, "--max_timesteps", "10")
    argv[1] = "DMPO"
    assert main(argv) == 0
    assert "figures/latent" in events().Tags()["images"]


def test_an_interrupted_run_is_logged_once(hopper):
    argv = command(hopper, "--no_cuda_graph", "--checkpoint_freq", "20")
    training = make_training(argv)
    train = training.policy.train

    def until_35(*arguments):
        if training.policy.total_it == 34:
            raise KeyboardInterrupt  # as a kill: evaluated at step 30, no checkpoint since step 20
        return train(*arguments)

    training.policy.train = until_35
    with pytest.raises(KeyboardInterrupt):
        training.train()
    assert [event.step for event in events().Scalars("charts/SPS")] == [10, 20, 30]
    assert main(argv) == 0
    accumulator = events()
    check_scalars(lambda name: [(e.step, e.value) for e in accumulator.Scalars(name)])


def test_fresh_sets_the_events_aside(hopper):
    assert main(command(hopper)) == 0
    assert main(command(hopper, "--fresh")) == 0
    assert len(list(Path("tensorboard").iterdir())) == 1  # TensorBoard shows all that is here
    assert len(events().Scalars("train/critic_loss")) == 4


def test_a_logger_that_fails_is_a_warning_and_the_run_continues(hopper, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loggers.TensorBoardLogger, "evaluated", full)
    assert main(command(hopper)) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert len(warnings) == 1 and "No space left" in warnings[0]
    assert [row["step"] for row in rows_of("results/IQL/*.csv")] == ["10", "20", "30", "40"]


@pytest.fixture
def broken(monkeypatch):
    """A TensorBoard that is installed but cannot be used."""

    def break_off(*_):
        raise TypeError("Descriptors cannot be created directly.\nDowngrade the package")

    monkeypatch.setattr(loggers, "TensorBoardLogger", break_off)


def test_a_logger_that_does_not_start_is_a_warning(hopper, broken, capsys):
    assert main(command(hopper, "--max_timesteps", "20")) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: tensorboard cannot start (Descriptors cannot be")
    assert [row["step"] for row in rows_of("results/IQL/*.csv")] == ["10", "20"]


def test_a_logger_that_was_asked_for_must_start(hopper, broken):
    code, lines = exit_code_and_errors(command(hopper, "--logger", "tensorboard"))
    assert code == 2 and not list(Path("results/IQL").glob("*.csv"))
    (error,) = [line for line in lines if "tensorboard" in line]
    assert error.startswith("error: tensorboard cannot start (Descriptors cannot be")
    assert error == lines[-1] and error.endswith("reinstall it, or give --logger none")


def test_none(hopper):
    assert main(command(hopper, "--logger", "none")) == 0
    assert not Path("tensorboard").exists() and not Path("wandb").exists()


def test_wandb_offline(hopper, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main(command(hopper, "--logger", "wandb")) == 0
    assert not Path("tensorboard").exists()
    (record,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    history = read_history(record)
    check_scalars(lambda name: [(row["_step"], row[name]) for row in history if name in row])


def test_wandb_has_figures_where_nothing_else_has_made_pyplot_known(hopper):
    pytest.importorskip("wandb")
    done = subprocess.run(
        [sys.executable, ROOT / "main_training.py", *command(hopper, "--logger", "wandb")],
        capture_output=True,
        text=True,
        env=os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(list(Path("wandb").glob("offline-run-*/files/media/images/figures/*.png"))) == 4


def read_history(path):
    """The logged rows of an offline run, a protocol buffer for each record."""
    from wandb.proto.wandb_internal_pb2 import Record

    records, deadline = [], time.monotonic() + 60
    while not any(record.HasField("exit") for record in records):  # W&B's own process writes it
        assert time.monotonic() < deadline
        time.sleep(0.1)
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes())]
    return [
        {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        for record in records
        if record.HasField("history")
    ]


def leveldb_records(data, header=7, block=32_768):
    """Records of a file in LevelDB's log format, after W&B's own header of 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    record, place = b"", header
    while place + header <= len(data):
        if block - place % block < header:  # the rest of a block is padding
            place += block - place % block
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + header : place + header + size]
        place += header + size
        if kind in (1, 4):  # whole, or a last part
            yield record
            record = b""


def test_a_logger_that_is_not_installed_is_one_line(hopper):
    """In a Python that does not find the package."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *a: None if name == 'wandb' else find(name, *a);"
        f"sys.path.insert(0, {str(ROOT)!r}); import main_training; sys.exit(main_training.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command(hopper, "--logger", "wandb")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "error: --logger wandb needs a package: pip install wandb\n"
