"""Runs that are killed, stopped, damaged or started twice: what they keep and how they resume."""

import contextlib
import csv
import errno
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import ROOT, exit_code_and_errors, make_training, one_file, rows_of, run_command

from experiment import state
from experiment.errors import StoppedError
from experiment.files import DamagedError, read_content, set_aside, to_bytes, write_content
from experiment.generators import generator_states
from experiment.options import POLICIES
from experiment.results import Results
from experiment.signals import StopSignals
from main_training import main
from speed import products

KILLS = 20
MODEL = "models/*_????????.safetensors"
CHECKPOINT = "models/*.checkpoint.safetensors"
OPTIONS = {
    "DMPO": ["--info-reg", "--latent_disc_dim", "3"],
    "DMPO_ant": ["--info-reg", "--latent_disc_dim", "3", "--hidden", "8", "8", "8"],
}


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(scope="module")
def processes():
    """Processes that fork from one which has imported everything, so that they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main_training"])
    # Without this the server of Python 3.11 does not find it, and children import everything.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(ROOT))
        yield context


def command(hopper, *more, policy="AWAC", steps=60, eval_freq=20):
    more = [*OPTIONS.get(policy, []), *more]
    frequencies = {"eval_freq": eval_freq, "c_loss_freq": 15}
    return run_command(hopper, *more, policy=policy, steps=steps, **frequencies)


def run_in(folder, argv):
    """The body of a child process: the main job, in a folder."""
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.exit(main(argv))


def outcome(folder):
    """All that a run leaves, bit by bit, except the times."""
    root = Path(folder)
    files = {
        path.relative_to(root): path.read_bytes()
        for pattern in ("results/*/*.txt", "results/*/*.json")
        for path in root.glob(pattern)
    }
    for path in root.glob(MODEL):
        files[path.relative_to(root)] = path.read_bytes()
    with one_file("results/*/*.csv", root).open() as file:
        rows = [{k: v for k, v in row.items() if k != "wall_time"} for row in csv.DictReader(file)]
    contents = {path.name: read_content(path) for path in root.glob(f"{CHECKPOINT}*")}
    for content in contents.values():
        del content["seconds"], content["run_id"]
        for row in content["results"]["rows"]:
            del row["wall_time"]
    return files, rows, {name: to_bytes(content) for name, content in contents.items()}


def uninterrupted(argv):
    """The outcome of a run in a folder of its own."""
    folder = Path("undisturbed").absolute()
    folder.mkdir()
    with contextlib.chdir(folder):
        assert main(argv) == 0
    expected = outcome(folder)
    shutil.rmtree(folder)
    return expected


def interrupt_after_some_checkpoints(process, number, rng):
    """Send a signal after up to three checkpoints: at any moment, or in the middle of writing."""

    def newest():
        for path in Path().glob(CHECKPOINT):
            with contextlib.suppress(FileNotFoundError):  # it is being replaced
                return path.stat().st_mtime_ns

    for _ in range(rng.integers(1, 4)):
        before = newest()
        while process.is_alive() and newest() == before:
            time.sleep(0.0005)
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 0.02))
    else:
        while process.is_alive() and not any(Path("models").glob("*.tmp")):
            pass
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.join()


def run_with_interruptions(processes, argv, number, at_most, rng):
    """Run, interrupt and run again, to the end; the exit codes."""
    codes = []
    while not codes or codes[-1]:
        process = processes.Process(target=run_in, args=(Path.cwd(), argv))
        process.start()
        if len(codes) < at_most:
            interrupt_after_some_checkpoints(process, number, rng)
        process.join()
        codes.append(process.exitcode)
        assert codes[-1] in (0, -number, 128 + number)
    return codes


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_killed_20_times_ends_as_if_it_never_was(hopper, processes, policy):
    argv = command(hopper, "--checkpoint_freq", "3", policy=policy, steps=400)
    expected = uninterrupted(argv)
    rng = np.random.default_rng(POLICIES.index(policy))
    codes = run_with_interruptions(processes, argv, signal.SIGKILL, KILLS, rng)
    assert codes == [-signal.SIGKILL] * KILLS + [0]
    assert outcome(".") == expected
    assert not list(Path().glob("**/*.tmp"))


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_run_interrupted_now_and_then_ends_as_if_it_never_was(hopper, processes, number):
    argv = command(hopper, "--checkpoint_freq", "3", policy="IQL", steps=100)
    expected = uninterrupted(argv)
    codes = run_with_interruptions(processes, argv, number, 4, np.random.default_rng(0))
    assert len(codes) == 5
    assert outcome(".") == expected


def test_files_hold_every_kind_of_content():
    content = {
        "tensor": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "nested": {0: (1, None, [True, "x"]), "float": 0.1 + 0.2, "inner": {"empty": {}}},
    }
    write_content(Path("content"), content)
    again = read_content(Path("content"))
    assert again.keys() == content.keys()
    for name in ("tensor", "scalar", "bytes"):
        assert torch.equal(again[name], content[name])
        assert again[name].dtype == content[name].dtype
    assert again["nested"] == content["nested"] and type(again["nested"][0]) is tuple


@pytest.fixture(scope="module")
def checkpoint_bytes(hopper, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    with contextlib.chdir(folder):
        assert main([*command(hopper, steps=4), "--hidden", "2", "2"]) == 0
    return one_file(CHECKPOINT, folder).read_bytes()


def is_refused(data, path=Path("changed")):
    """Whether a file of these bytes is refused as damaged."""
    path.write_bytes(data)
    try:
        read_content(path)
    except DamagedError:
        return True
    return False


def test_every_prefix_of_a_checkpoint_is_refused(checkpoint_bytes):
    step = max(1, len(checkpoint_bytes) // 2000)
    for length in range(0, len(checkpoint_bytes), step):
        assert is_refused(checkpoint_bytes[:length])
    assert not is_refused(checkpoint_bytes)


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_changed_bytes_in_a_checkpoint_are_detected(checkpoint_bytes, data):
    changed = bytearray(checkpoint_bytes)
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    is_padding = checkpoint_bytes[place : place + 1].isspace()  # JSON's, between its tokens
    assert is_refused(bytes(changed)) or is_padding


def test_a_checkpoint_that_is_damaged_gives_way_to_the_one_before_it(hopper, capsys):
    argv = command(hopper)
    expected = uninterrupted(argv)
    assert main(argv) == 0
    newest = one_file(CHECKPOINT)
    newest.write_bytes(newest.read_bytes()[:-1])
    damaged = newest.read_bytes()
    capsys.readouterr()
    assert main(argv) == 0
    printed = capsys.readouterr()
    (warning,) = (line for line in printed.err.splitlines() if line.startswith("warning: models"))
    assert str(newest) in warning and "damaged" in warning
    assert f"resumed at step 40 from {newest}.previous" in printed.out
    assert one_file("models/old/*").read_bytes() == damaged
    assert outcome(".") == expected


def test_without_a_whole_checkpoint_nothing_is_overwritten(hopper, capsys):
    argv = command(hopper)
    assert main(argv) == 0
    for path in Path().glob(f"{CHECKPOINT}*"):
        path.write_bytes(b"")
    before = {path: path.read_bytes() for path in Path().glob("*/**/*.*")}
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no checkpoint is intact (models/") and "--fresh" in error
    assert {path: path.read_bytes() for path in Path().glob("*/**/*.*")} == before
    assert main([*argv, "--fresh"]) == 0
    assert len(list(Path("models/old").iterdir())) == 3


def test_a_finished_run_says_so_and_fresh_runs_it_again(hopper, capsys):
    argv = command(hopper)
    assert main(argv) == 0
    before = outcome(".")
    capsys.readouterr()
    assert main(argv) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("finished already: --fresh runs it again")
    assert printed[1].startswith("score ") and len(printed) == 2
    assert outcome(".") == before
    assert main([*argv, "--fresh"]) == 0
    assert outcome(".")[1:] == before[1:]
    assert len(list(Path("results/AWAC/old").iterdir())) == 6  # TensorBoard's folder, too
    assert len(list(Path("models/old").iterdir())) == 3


def test_a_folder_is_set_aside_on_another_disk(monkeypatch):
    def rename(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    Path("tensorboard/run").mkdir(parents=True)
    Path("tensorboard/run/events").write_text("precious")
    monkeypatch.setattr(os, "rename", rename)
    there = set_aside(Path("tensorboard/run"), Path("results/old"))
    assert not Path("tensorboard/run").exists()
    assert (there / "events").read_text() == "precious"


def test_a_finished_run_restores_what_was_deleted(hopper):
    argv = command(hopper)
    assert main(argv) == 0
    before = outcome(".")
    for path in [*Path("results").glob("*/*.*"), *Path().glob(MODEL)]:
        path.unlink()
    assert main(argv) == 0
    assert outcome(".") == before


@pytest.mark.parametrize(("stop", "fewer"), [(5, 5), (5, 2), (25, 25), (25, 22)])
def test_a_stopped_run_that_is_asked_for_no_more_steps_is_evaluated(
    hopper, monkeypatch, stop, fewer
):
    training = make_training(command(hopper))
    train = training.policy.train

    def stopping(*arguments):
        if training.policy.total_it == stop - 1:
            training.signals.received = signal.SIGTERM
        return train(*arguments)

    monkeypatch.setattr(training.policy, "train", stopping)
    with pytest.raises(StoppedError):
        training.train()
    for _ in range(2):
        assert main(command(hopper, steps=fewer)) == 0
        assert [int(row["step"]) for row in rows_of()] == [*range(20, stop, 20), stop]


def test_a_checkpoint_of_another_kind_of_device_says_so(hopper, monkeypatch, capsys):
    argv = command(hopper)
    assert main(argv) == 0
    monkeypatch.setattr(
        state, "generator_states", lambda *a: generator_states(*a) | {"cuda": torch.zeros(1)}
    )
    assert main(argv) == 2
    assert "written on a CPU, and this run uses a GPU" in capsys.readouterr().err


def test_a_json_that_somebody_changed_is_set_aside(hopper):
    argv = command(hopper)
    training = make_training(argv)
    training.signals.received = signal.SIGTERM
    with pytest.raises(StoppedError, match="step 1 "):
        training.train()
    config = one_file("results/AWAC/*.json")
    content = json.loads(config.read_text())
    earlier = [json.dumps(content | {"earlier": odd}) for odd in ("abc", ["abc"])]
    for text in (*earlier, "[]", "{", '{"command": null}', "[" * 100_000):
        config.write_text(text)
        training = make_training(argv)
        training.signals.received = signal.SIGTERM
        with pytest.raises(StoppedError):
            training.train()
    assert len(list(Path("results/AWAC/old").iterdir())) == 6


def test_a_checkpoint_of_other_settings_is_refused_and_they_are_listed(hopper):
    assert main(command(hopper)) == 0
    (run,) = (path.stem for path in Path("results/AWAC").glob("*.json"))
    other = command(hopper, "--tau", "0.5", "--batch_size", "17")
    checkpoint = make_training(other).results.checkpoints.paths[0]
    one_file(CHECKPOINT).rename(checkpoint)  # nothing but a renamed file leads here
    before = checkpoint.read_bytes()
    code, errors = exit_code_and_errors(other)
    assert code == 2 and run
    assert "batch_size was 16, is 17" in errors[-1] and "tau was 0.005, is 0.5" in errors[-1]
    assert "seed was" not in errors[-1] and "--fresh" in errors[-1]
    assert checkpoint.read_bytes() == before


def test_a_hyperparameter_edited_in_the_source_starts_a_run_of_its_own(hopper, tmp_path):
    source = tmp_path / "source"
    for package in ("d4rl_tasks", "experiment", "speed"):
        shutil.copytree(ROOT / package, source / package)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, source)

    def run():
        argv = [sys.executable, source / "main_training.py", *command(hopper, steps=10)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run()
    text = (source / "AWAC.py").read_text()
    edited = text.replace("learning_rate: Positive = 3e-4", "learning_rate: Positive = 1e-3")
    assert edited != text
    (source / "AWAC.py").write_text(edited)
    run()
    assert len(list(Path("results/AWAC").glob("*.csv"))) == 2


def test_running_out_of_memory_on_resuming_says_so_and_keeps_the_checkpoint(hopper, monkeypatch):
    assert main(command(hopper)) == 0
    before = one_file(CHECKPOINT).read_bytes()

    def allocate(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 1 bytes")

    monkeypatch.setattr(state, "restore_generators", allocate)
    code, errors = exit_code_and_errors(command(hopper, steps=80))
    assert code == 2 and errors[-1].startswith("error: out of memory: give a smaller --batch_size")
    assert "--fresh" not in errors[-1]
    assert one_file(CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("folder", ["results", "elsewhere"])
def test_a_second_process_is_refused(hopper, capsys, folder):
    assert main(command(hopper)) == 0
    run = one_file("results/AWAC/*.json").stem
    with Results(Path(folder), "AWAC", run).locked():
        assert main(command(hopper)) == 2
    assert f"another process is running {run}" in capsys.readouterr().err.splitlines()[-1]
    assert main(command(hopper)) == 0


def test_a_finished_run_says_how_to_continue_it(hopper, capsys):
    for policy, how in (("AWAC", "a higher --max_timesteps continues it"), ("IQL", "of its own")):
        for _ in range(2):
            assert main(run_command(hopper, policy=policy)) == 0
        assert re.search(rf"finished already: .*{how}", capsys.readouterr().out)


def test_unfinished_files_of_a_killed_process_are_deleted(hopper):
    argv = command(hopper)
    assert main(argv) == 0
    checkpoint = one_file(CHECKPOINT)
    mine = checkpoint.with_name(checkpoint.name + ".123.tmp")
    other = checkpoint.with_name("other" + checkpoint.name + ".123.tmp")
    for path in (mine, other):
        path.touch()
    assert main(argv) == 0
    assert not mine.exists() and other.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_a_run_with_a_checkpoint(hopper, number, code):
    argv = command(hopper, "--checkpoint_freq", "5", steps=3000, eval_freq=1000)
    started = subprocess.Popen(
        [sys.executable, ROOT / "main_training.py", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while started.poll() is None and not list(Path().glob(CHECKPOINT)):
        time.sleep(0.01)
    started.send_signal(number)
    _, error = started.communicate(timeout=60)
    assert started.returncode == code, error
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("stopped at step") and "same command" in last
    stopped = int(last.split()[3])
    assert read_content(one_file(CHECKPOINT))["policy"]["total_it"] == stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_gives_no_traceback(hopper, number):
    """Sent when the first module of torch is being imported, however long that takes to come."""
    code = (
        "import os, runpy, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = ['main_training.py', *{command(hopper)!r}]\n"
        "runpy.run_path(sys.path[0] + '/main_training.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode in (128 + number, -number)
    assert "Traceback" not in done.stderr


def test_a_signal_before_training_stops_at_once():
    with pytest.raises(StoppedError) as stop, StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert stop.value.exit_code == 143


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert not signals.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_during_an_evaluation_leaves_it_to_the_next_start(hopper):
    argv = command(hopper)
    expected = uninterrupted(argv)
    training = make_training(argv)
    select_action = training.policy.select_action

    def interrupted(states):
        training.signals.received = signal.SIGTERM
        return select_action(states)

    training.policy.select_action = interrupted
    with pytest.raises(StoppedError, match="step 20 "):
        training.train()
    content = read_content(one_file(CHECKPOINT))
    assert content["evaluation_due"] and not content["results"]["rows"]
    assert main(argv) == 0
    # The interruption added a checkpoint, but the last two are the same.
    assert outcome(".") == expected


@pytest.fixture
def small_disk():
    """A file system of 1 MB."""
    folder = Path("disk").absolute()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_a_run_and_leaves_the_last_checkpoint(hopper, small_disk, capsys):
    argv = command(hopper)
    expected = uninterrupted(argv)
    ballast = small_disk / "ballast"
    with contextlib.chdir(small_disk):
        for free in range(20_000, 400_000, 20_000):
            ballast.write_bytes(bytes(shutil.disk_usage(".").free))
            os.truncate(ballast, max(0, ballast.stat().st_size - free))
            code = main(argv)
            error = capsys.readouterr().err.splitlines()[-1]
            assert code in (0, 2)
            if code == 0:
                break
            assert error.startswith("error: cannot write ") and "No space left" in error
            assert not list(Path().glob("**/*.tmp"))
            for path in Path().glob(f"{CHECKPOINT}*"):
                read_content(path)
        assert free > 20_000 and code == 0
    assert outcome(small_disk) == expected


def test_a_file_that_may_not_grow_stops_a_run_and_leaves_the_last_checkpoint(hopper):
    """The same by a limit of the shell's, where no file system can be mounted."""
    argv = command(hopper)
    expected = uninterrupted(argv)
    for kilobytes, file in ((1, ".json"), (40, ".checkpoint.safetensors")):
        line = shlex.join([sys.executable, str(ROOT / "main_training.py"), *argv])
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f {kilobytes}; {line}"], capture_output=True, text=True
        )
        assert done.returncode == 2
        error = done.stderr.splitlines()[-1]
        assert error.startswith("error: cannot write ") and "File too large" in error
        assert f"{file} (" in error
    assert not list(Path().glob("**/*.tmp"))
    assert main(argv) == 0
    assert outcome(".") == expected


def test_a_folder_that_cannot_be_made_is_one_line(hopper, capsys):
    Path("models").write_text("a file of the user's")
    assert main(command(hopper)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert Path("models").read_text() == "a file of the user's"


def resources():
    """Resident memory in bytes and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_long_run_keeps_its_memory_and_its_files(hopper, monkeypatch):
    used = []
    write_logs = Results.write_logs

    def measured(results):
        write_logs(results)
        used.append(resources())

    monkeypatch.setattr(Results, "write_logs", measured)
    argv = command(hopper, policy="IQL", steps=10_000, eval_freq=200)
    assert main(argv) == 0
    assert len(used) == 50
    memory, files = zip(*used[10:], strict=True)
    assert max(memory) - memory[0] < 10e6
    assert max(files) == files[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has other libraries")
def test_a_run_resumes_with_the_products_that_it_began_with(hopper):
    """At sizes at which the two libraries differ in the last bits."""
    more = ["--hidden", "256", "256", "--batch_size", "256"]
    whole, half = (command(hopper, *more, steps=steps) for steps in (40, 20))

    def final_model(library, *commands):
        with contextlib.chdir(tempfile.mkdtemp(dir=Path())):
            for argv in commands:
                products.use(library)
                library = "BLAS"  # what this processor would choose for the second command
                assert main(argv) == 0
            return one_file(MODEL).read_bytes()

    before = products.library()
    try:
        expected = final_model("oneDNN", whole)
        assert final_model("oneDNN", half, whole) == expected != final_model("BLAS", whole)
    finally:
        products.use(before)
