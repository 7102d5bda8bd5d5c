"""sweep.py on a real local Ray: a grid with a killed worker, Ctrl-C, and what is run again."""

import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import h5py
import pytest
from runs import ROOT, rows_of

import AWAC
import d4rl_tasks
import sweep
from main_training import main

GRID = [
    "--policies",
    "AWAC",
    "IQL",
    "--envs",
    "hopper-medium-v2",
    "--seeds",
    "0-1",
]
# Long enough that a run seen at step 200 is still running when a signal arrives through Ray:
# 1,000 steps take as little as a second.
STEPS = 4000
SHORT = ["--max_timesteps", str(STEPS), "--eval_freq", "100", "--batch_size", "16"]
SHORT += ["--hidden", "8", "8", "--logger", "none"]


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture
def start(hopper):
    """Starts sweeps; what still runs at the end is ended."""
    pytest.importorskip("ray")
    started = []

    def run(*options):
        line = [sys.executable, ROOT / "sweep.py", *GRID, *SHORT, "--source", hopper, *options]
        started.append(
            subprocess.Popen(
                list(map(str, line)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=150)


def end(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_a_run(step):
    """Wait until a run has come to a step; returns its mark."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for mark in Path("results/sweep").glob("*.running"):
            policy, env, *_, seed, _ = mark.stem.split("_")
            for table in Path("results", policy).glob(f"*_{env}_seed{seed}_*.csv"):
                if int(table.read_text().splitlines()[-1].split(",")[0]) >= step:
                    return mark
        time.sleep(0.02)
    raise AssertionError("no run came so far")


def last_steps():
    tables = Path().glob("results/*/*.csv")
    return [int(table.read_text().splitlines()[-1].split(",")[0]) for table in tables]


@pytest.mark.slow
def test_a_grid_with_a_killed_worker_ends_whole_and_is_then_skipped(start):
    sweeping = start()
    mark = wait_for_a_run(step=200)
    os.kill(int(mark.read_text().split()[-1]), signal.SIGKILL)
    code, out, err = end(sweeping)
    assert code == 0, out + err
    assert "4 finished" in out and last_steps() == [STEPS] * 4
    assert re.search(r"IQL hopper-medium-v2 seed 1 .*4,?000/4,?000 .*steps/s .*score", out)
    log = mark.with_suffix(".log").read_text()
    resumed = re.search(r"resumed at step (\d+)", log)
    assert resumed and int(resumed[1]) >= 100  # the row of step 200 comes before its checkpoint
    assert not list(Path("results").glob("*/old"))
    before = {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.csv")}
    code, out, _ = end(start())
    assert code == 0 and "4 skipped" in out
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_ctrl_c_leaves_everything_resumable(start):
    sweeping = start()
    mark = wait_for_a_run(step=200)
    sweeping.send_signal(signal.SIGINT)
    code, out, err = end(sweeping)
    assert code == 130, out + err
    assert "the same command resumes the sweep" in err and "Traceback" not in err
    assert "with a checkpoint" in mark.with_suffix(".log").read_text()
    assert not list(Path("results/sweep").glob("*.running"))
    assert min(last_steps()) < STEPS
    code, out, err = end(start())
    assert code == 0, out + err
    assert last_steps() == [STEPS] * 4
    assert "resumed at step" in mark.with_suffix(".log").read_text()


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_error_and_the_others_finish(start, tmp_path):
    smaller = ["--policies", "AWAC", "--envs", "hopper-medium-v2", "--seeds", "1"]
    code, out, _ = end(start(*smaller, "--scale", "1", "1e300", "--max_timesteps", "100"))
    assert code == 1
    assert "1 failed" in out and "1 finished" in out
    row = next(line for line in out.splitlines() if "1e300" in line)
    assert re.search(
        r"failed: error: .* became (nan|inf) at train step \d+; .*see results/sweep/", row
    )


@pytest.mark.slow
def test_more_than_there_is_is_refused(start):
    code, _, err = end(start("--gpus", "1000"))
    assert code == 2 and err.count("\n") == 1 and "a run needs 1000 GPU, but Ray has" in err


def test_a_terminal_of_unknown_size_shows_the_table(monkeypatch, capsys):
    """ssh -tt from cron has one of 0 x 0."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))
    sweep.Screen().show("a table\nof two lines")
    assert capsys.readouterr().out == "a table\nof two lines\n"


def jobs(line):
    arguments, others = sweep.make_parser().parse_known_args(line.split())
    return sweep.make_jobs(arguments, others)


def test_the_papers_grid():
    grid = jobs("--paper --eval_freq 100")
    # Both DMPOs with and without the mutual information.
    assert len(grid) == 8 * 18 * 5 == len({job.name for job in grid})
    with_information = 0
    for job in grid:
        run, hp = job.options.run, job.options.hyperparameters
        assert (run.policy, run.env, run.seed) == (job.policy, job.env, job.seed)
        assert hp.scale == (5.0 if job.env.startswith("antmaze") else 10.0)
        assert run.eval_freq == 100
        with_information += getattr(hp, "info_reg", False)
        d4rl_tasks.get_task(job.env)
    assert with_information == 2 * 18 * 5
    assert len(jobs("--paper --policies iql --seeds 3 7-8")) == 18 * 3


def test_a_given_scale_is_kept():
    (job,) = jobs("--policies DMPO --envs antmaze-umaze-v0 --seeds 1 --scale=3")
    assert job.options.hyperparameters.scale == 3.0


def test_any_option_with_several_values_is_a_dimension():
    grid = "--policies IQL AWAC --envs hopper-medium-v2 --seeds 0-1 --scale 1 3 10 "
    grid = jobs(grid + "--learning_rate 1e-4 3e-4 --expectile 0.7 0.9 --hidden 8,8 16,16,16")
    assert len(grid) == 2 * (3 * 2 * 2) * (2 + 1)  # AWAC has no expectile
    assert {job.options.hyperparameters.scale for job in grid} == {1, 3, 10}
    assert {job.options.hyperparameters.hidden for job in grid} == {(8, 8), (16, 16, 16)}
    assert all("expectile" not in job.name for job in grid if job.policy == "AWAC")
    assert len({job.log for job in grid}) == len({job.name for job in grid}) == len(grid)


@pytest.mark.parametrize(
    "sources", ["data/a.hdf5 data_a.hdf5", f"{'long' * 60}/a.hdf5 {'long' * 60}/b.hdf5"]
)
def test_logs_of_similar_runs_have_short_names_of_their_own(sources):
    grid = jobs(f"--policies IQL --envs hopper-medium-v2 --seeds 0 --source {sources}")
    names = {job.log.name for job in grid}
    assert len(names) == 2 and max(map(len, names)) < 200


def test_one_list_of_layers_is_one_value():
    (job,) = jobs("--policies DMPO --envs hopper-medium-v2 --seeds 0 --hidden 16 8 --info-reg")
    assert job.options.hyperparameters.hidden == (16, 8)


def test_without_the_papers_grid_mujoco_has_the_sources_scale(monkeypatch):
    monkeypatch.setattr(AWAC.Hyperparameters.__init__, "__defaults__", edited_defaults(scale=3.0))
    (job,) = jobs("--policies AWAC --envs hopper-medium-v2 --seeds 1")
    assert job.options.hyperparameters.scale == 3.0


def edited_defaults(**changes):
    """AWAC's defaults as after an edit of its source."""
    fields = dataclasses.fields(AWAC.Hyperparameters)
    return tuple(changes.get(field.name, field.default) for field in fields)


@pytest.mark.parametrize(
    "more", ["--max_timesteps 1000 2000", "--eval_freq 10 20", "--scale 5 5.0", "--device_id 0 1"]
)
def test_jobs_that_are_the_same_run_are_refused(more, capsys):
    line = f"--policies AWAC --envs hopper-medium-v2 --seeds 0 --dry-run {more}"
    assert sweep.main(line.split()) == 2
    err = capsys.readouterr().err
    assert "are the same run" in err and err.count("\n") == 1


def test_iqls_length_is_a_dimension():
    grid = jobs("--policies IQL --envs hopper-medium-v2 --seeds 0 --max_timesteps 1000 2000")
    sweep.check_jobs(grid)
    assert len(grid) == 2


def test_a_run_on_another_machine_of_a_cluster_is_not_signalled_here():
    ended = {}
    for machine in ("elsewhere", platform.node()):
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        mark = Path("a.running")
        mark.write_text(f"{machine} {process.pid}")
        sweep._signal(mark)
        try:
            ended[machine] = process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            ended[machine] = None
            process.kill()
    assert ended == {"elsewhere": None, platform.node(): -signal.SIGTERM}


def is_finished(job):
    return sweep.is_finished(job, sweep.read_states([job])[job])


@pytest.fixture
def one_run(hopper):
    """A job's command line for the sweep, its job, and that run finished."""
    line = ["--policies", "IQL", "--envs", "hopper-medium-v2", "--seeds", "1", *SHORT]
    line += ["--max_timesteps", "40", "--eval_freq", "20", "--source", str(hopper)]
    (job,) = jobs(" ".join(line))
    assert main(list(job.arguments)) == 0
    return line, job


def test_a_finished_run_is_found_whatever_it_logged(one_run):
    line, job = one_run
    assert is_finished(job)
    assert is_finished(jobs(" ".join([*line, "--eval_freq", "7"]))[0])
    (model,) = Path("models").glob("*_????????.safetensors")
    for other in (
        *(["--seeds", "2"], ["--tau", "0.1"], ["--max_timesteps", "50"]),
        *(["--name", "other"], ["--load_model", str(model)]),
    ):
        (different,) = jobs(" ".join([*line, *other]))
        assert not is_finished(different)


def test_a_run_on_data_that_have_changed_since_is_not_finished(hopper, tmp_path):
    data = tmp_path / "data.hdf5"
    shutil.copy(hopper, data)
    line = ["--policies", "AWAC", "--envs", "hopper-medium-v2", "--seeds", "1", *SHORT]
    line += ["--max_timesteps", "40", "--source", str(data)]
    (job,) = jobs(" ".join(line))
    assert main(list(job.arguments)) == 0
    assert is_finished(job)
    with h5py.File(data, "r+") as file:
        file["rewards"][0] += 1
    assert not is_finished(job)
    data.unlink()  # to make room: the run is still finished
    assert is_finished(job)


def test_a_synthetic_run_does_not_count_once_d4rls_data_are_there(monkeypatch, one_run):
    (path,) = Path("results/IQL").glob("*.json")
    config = json.loads(path.read_text())
    config["options"]["source"], config["dataset"]["synthetic"] = "auto", True
    path.write_text(json.dumps(config))
    (auto,) = jobs(" ".join(["--source auto", *one_run[0][:-2]]))
    assert is_finished(auto)
    monkeypatch.setattr(sweep, "is_genuine", lambda path, silent: True)
    assert not is_finished(auto)


def test_the_furthest_of_several_runs_counts(one_run):
    _, job = one_run
    (path,) = Path("results/IQL").glob("*.json")
    for name in ("a", "z"):
        shutil.copy(path, path.with_name(f"{name}.json"))
        path.with_name(f"{name}.csv").write_text("step,wall_time,score_mean\n20,1,0\n")
    assert sweep.read_states([job])[job].step == 40


def test_a_state_is_of_the_last_row(one_run):
    _, job = one_run
    (path,) = Path("results/IQL").glob("*.csv")
    path.write_text("step,wall_time,score_mean\n20,4,0.125\n40,10,0.25\n")
    assert sweep.read_states([job])[job] == sweep.State(step=40, rate=4.0, score=25.0)


@pytest.mark.parametrize(
    ("program", "number"), [("sys.exit(143)", 15), ("os.kill(os.getpid(), 9)", 9)]
)
def test_a_run_that_a_signal_stopped_is_tried_again(monkeypatch, program, number):
    stub(monkeypatch, program)
    with pytest.raises(ChildProcessError, match=f"signal {number}$"):
        sweep.run_job([], str(Path.cwd()), "log.log")
    assert not Path("log.running").exists()


def test_a_run_that_ends_with_an_error_is_not_tried_again(monkeypatch):
    stub(monkeypatch, "sys.exit(2)")
    assert sweep.run_job([], str(Path.cwd()), "log.log") == 2


def stub(monkeypatch, program):
    """A program in place of main_training.py."""
    Path("stub.py").write_text(f"import os, sys\n{program}\n")
    monkeypatch.setattr(sweep, "MAIN", Path("stub.py").resolve())


def test_the_command_that_a_swept_run_records_gives_the_same_run(one_run, hopper):
    (path,) = Path("results/IQL").glob("*.json")
    before, rows = json.loads(path.read_text()), rows_of()
    path.unlink()
    for file in Path("models").glob("*"):
        file.unlink()
    code = sweep.run_job(one_run[1].arguments, str(Path.cwd()), str(Path("log.log").resolve()))
    assert code == 0, Path("log.log").read_text()
    again = json.loads(path.read_text())
    assert again["command"] == before["command"] and again["settings"] == before["settings"]
    for one, other in zip(rows, rows_of(), strict=True):
        assert one | {"wall_time": ""} == other | {"wall_time": ""}


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{", "[" * 100_000, "null", '{"settings": {"seed": null}}'),
        '{"settings": {"policy": ["IQL"], "env": "hopper-medium-v2", "seed": 1e999}}',
    ],
)
def test_files_that_are_not_of_a_run_do_not_count(one_run, text):
    (path,) = Path("results/IQL").glob("*.json")
    path.write_text(text)
    assert not is_finished(one_run[1])


@pytest.mark.parametrize(
    "change", [{"options": []}, {"dataset": {"source": "file", "synthetic": False, "path": 5}}]
)
def test_a_run_whose_file_somebody_changed_does_not_count(one_run, change):
    (path,) = Path("results/IQL").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not is_finished(one_run[1])


@pytest.mark.parametrize("text", ["", "step\n", "step,score_mean\n1e400,0\n", "a,b\n1,2\n"])
def test_tables_that_are_not_of_a_run_do_not_count(one_run, text):
    (path,) = Path("results/IQL").glob("*.csv")
    path.write_text(text)
    assert not is_finished(one_run[1])


def test_the_runs_that_are_left_are_estimated(one_run, capsys):
    line, _ = one_run
    assert sweep.main([*line, "--seeds", "1-2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("python main_training.py") == 1
    assert re.search(r"1 of 2 runs are left: about \d+ \w+ of one core", printed)
    assert sweep.main([*line, "--dry-run"]) == 0
    assert capsys.readouterr().out == "0 of 1 runs are left\n"


@pytest.mark.parametrize(
    ("env", "more", "text"),
    [
        ("hopper-medium-v2", "", "23 minutes"),  # 1,000 s of training, 4 evaluations of 100 s
        ("antmaze-umaze-v0", "", "38 minutes"),  # the last evaluation is 10 times as long
        ("antmaze-umaze-v0", "--eval_episodes 10", "23 minutes"),
    ],
)
def test_evaluations_are_a_part_of_the_estimate(monkeypatch, env, more, text):
    monkeypatch.setattr(sweep, "measure", lambda job, threads: (1.0, 100.0))
    line = f"--policies AWAC --envs {env} --seeds 0 --max_timesteps 1000 --eval_freq 300 {more}"
    assert f"about {text} of one core" in sweep.estimate(jobs(line), cpus=1)


@pytest.mark.parametrize(
    ("cores", "cpus", "at_once", "text"),
    [(3, 1, 3, "3 hours"), (3, 0.5, 6, "80 minutes"), (1, 4, 1, "8 hours")],
)
def test_as_many_runs_at_a_time_as_the_cores_allow(monkeypatch, cores, cpus, at_once, text):
    monkeypatch.setattr(sweep, "measure", lambda job, threads: (1.0, 0.0))
    monkeypatch.setattr(sweep, "available_cores", lambda: cores)
    grid = jobs("--policies AWAC --envs hopper-medium-v2 --seeds 0-7 --max_timesteps 3600")
    expected = f"about 8 hours of one core, {text} with {at_once} at a time"
    assert expected in sweep.estimate(grid, cpus)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 seconds"), (90, "90 seconds"), (4000, "67 minutes"), (1.642e7, "190 days")],
)
def test_durations_are_rounded_to_what_is_known(seconds, text):
    assert sweep.duration(seconds) == text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--policies DMPO --seeds 1", "give --policies, --envs and --seeds"),
        ("--policies DMPO --envs hopper-medum-v2 --seeds 1", "did you mean hopper-medium-v2"),
        ("--paper --max_timestepz 3", "did you mean --max_timesteps?"),
        ("--paper 3", "'3' belongs to no option"),
        (
            "--policies AWAC --envs hopper-medium-v2 --seeds 1 --weight_floor 0.1",
            "--weight_floor is not an option of AWAC",
        ),
    ],
)
def test_refusals_are_one_line(line, says, capsys):
    assert sweep.main(line.split()) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "line", ["--seeds 1-x", "--policies TD3", "--seeds 0-99999999999", "--paper --batch_size 0"]
)
def test_wrong_options_are_one_line(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        sweep.main(line.split())
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_without_ray_one_line_says_so():
    program = "import sys; sys.modules['ray'] = None; import sweep; "
    program += "sys.exit(sweep.main('--policies IQL --envs hopper-medium-v2 --seeds 1'.split()))"
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: ray is missing: pip install -r requirements-sweep.txt\n"


def test_options_that_the_grid_gives_are_refused(capsys):
    for more in (["--seed", "3"], ["--env=hopper-medium-v2"], ["--fresh"]):
        assert sweep.main([*GRID, "--dry-run", *more]) == 2
        assert capsys.readouterr().err.startswith("error: a sweep does not take --")


def test_a_second_sweep_in_a_folder_is_refused(hopper, capsys):
    Path("results/sweep").mkdir(parents=True)
    with filelock.FileLock("results/sweep/lock"):
        assert sweep.main([*GRID, "--source", str(hopper)]) == 2
    assert "another sweep" in capsys.readouterr().err
