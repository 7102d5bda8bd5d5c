"""sweep.py on a real local Ray: a grid with a killed worker, Ctrl-C, and what is run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pytest

import d4rl_tasks
import main_training
import sweep

ROOT = Path(__file__).parent.parent
GRID = [
    "--policies",
    "AWAC",
    "IQL",
    "--envs",
    "hopper-medium-v2",
    "hopper-expert-v2",
    "--seeds",
    "0-1",
]
STEPS = 2000  # that a run which is under way is still so when a signal has come through Ray
SHORT = ["--max_timesteps", str(STEPS), "--eval_freq", "100", "--batch_size", "16"]


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
            policy, env, _, seed = mark.stem.rsplit("_", 3)
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
    os.kill(int(mark.read_text()), signal.SIGKILL)
    code, out, err = end(sweeping)
    assert code == 0, out + err
    assert "8 finished" in out and last_steps() == [STEPS] * 8
    assert re.search(r"IQL hopper-expert-v2 seed 1 .*2000/2000 .*steps/s .*score", out)
    log = mark.with_suffix(".log").read_text()
    resumed = re.search(r"resumed at step (\d+)", log)
    assert resumed and int(resumed[1]) >= 100  # the row of step 200 comes before its checkpoint
    assert not list(Path("results").glob("*/old"))
    before = {path: path.stat().st_mtime_ns for path in Path("results").glob("*/*.csv")}
    code, out, _ = end(start())
    assert code == 0 and "8 skipped" in out
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_ctrl_c_leaves_everything_resumable(start):
    sweeping = start()
    mark = wait_for_a_run(step=200)
    sweeping.send_signal(signal.SIGINT)
    code, out, err = end(sweeping)
    assert code == 130, out + err
    assert "the same command goes on" in err and "Traceback" not in err
    assert "with a checkpoint" in mark.with_suffix(".log").read_text()
    assert not list(Path("results/sweep").glob("*.running"))
    assert min(last_steps()) < STEPS
    code, out, err = end(start())
    assert code == 0, out + err
    assert last_steps() == [STEPS] * 8
    assert "resumed at step" in mark.with_suffix(".log").read_text()


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_finish(start, hopper):
    smaller = ["--policies", "AWAC", "DMPO_ant", "--envs", "hopper-medium-v2", "--seeds", "1"]
    code, out, _ = end(start(*smaller, "--hidden", "8", "8", "8"))
    assert code == 1
    assert "1 failed" in out and "1 finished" in out
    assert re.search(r"AWAC .*failed: exit code 2, see results/sweep/AWAC_.*log", out)


@pytest.mark.slow
def test_more_than_there_is_is_refused(start):
    code, _, err = end(start("--gpus", "1000"))
    assert code == 2 and err.count("\n") == 1 and "a run asks for 1000 GPU" in err


def jobs(line):
    arguments, others = sweep.make_parser().parse_known_args(line.split())
    return sweep.make_jobs(arguments, others)


def test_the_papers_grid():
    grid = jobs("--paper --eval_freq 100")
    assert len(grid) == 6 * 18 * 5 == len({job.name for job in grid})
    for job in grid:
        options = job.options
        assert (options.policy, options.env, options.seed) == (job.policy, job.env, job.seed)
        assert options.scale == (5.0 if job.env.startswith("antmaze") else None)
        assert options.eval_freq == 100
        d4rl_tasks.get_task(job.env)
    assert len(jobs("--paper --policies iql --seeds 3 7-8")) == 18 * 3


def test_a_given_scale_is_kept():
    (job,) = jobs("--policies DMPO --envs antmaze-umaze-v0 --seeds 1 --scale=3")
    assert job.options.scale == 3.0


def test_what_is_left_is_estimated(hopper, capsys):
    line = ["--policies", "AWAC", "--envs", "hopper-medium-v2", "--seeds", "1-2", *SHORT]
    line += ["--source", str(hopper)]
    (job, _) = jobs(" ".join(line))
    assert sweep.main([*line, "--dry-run"]) == 0
    before = capsys.readouterr().out
    assert before.count("python main_training.py") == 2 and "2 of 2 runs are left" in before
    assert main_training.main(list(job.arguments)) == 0
    capsys.readouterr()
    assert sweep.is_finished(job)
    assert sweep.main([*line, "--dry-run"]) == 0
    after = capsys.readouterr().out
    assert after.count("python main_training.py") == 1 and "1 of 2 runs are left" in after
    longer = jobs(" ".join(line).replace(str(STEPS), "500"))[0]
    assert not sweep.is_finished(longer)


def test_an_estimate_is_near_the_time_a_run_takes(hopper):
    (job,) = jobs(f"--policies AWAC --envs hopper-medium-v2 --seeds 1 --source {hopper}")
    step, evaluation = sweep.measure("AWAC", "hopper-medium-v2", threads=1)
    start = time.perf_counter()
    assert main_training.main([*job.arguments, "--max_timesteps", "200"]) == 0
    took = time.perf_counter() - start
    (config,) = (json.loads(path.read_text()) for path in Path("results/AWAC").glob("*.json"))
    assert config["arguments"]["max_timesteps"] == 200
    assert 0.2 * 200 * step < took < 5 * (200 * step + evaluation) + 5
    assert np.isfinite([step, evaluation]).all()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--policies DMPO --seeds 1", "give --policies, --envs and --seeds"),
        ("--policies DMPO --envs hopper-medum-v2 --seeds 1", "did you mean hopper-medium-v2"),
    ],
)
def test_refusals_are_one_line(line, says, capsys):
    assert sweep.main(line.split()) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "line", ["--seeds 1-x", "--policies TD3", "--paper --max_timestepz 3", "--paper --batch_size 0"]
)
def test_wrong_options_are_one_line(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        sweep.main(line.split())
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_without_ray_one_line_says_so():
    program = "import sys; sys.modules['ray'] = None; import sweep; "
    program += "sys.exit(sweep.main('--policies IQL --envs hopper-medium-v2 --seeds 1'.split()))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: ray is missing: pip install -r requirements-sweep.txt\n"


def test_what_the_grid_gives_is_refused(capsys):
    for more in (["--seed", "3"], ["--env=hopper-medium-v2"], ["--fresh"]):
        assert sweep.main([*GRID, "--dry-run", *more]) == 2
        assert capsys.readouterr().err.startswith("error: a sweep does not take --")


def test_a_second_sweep_in_a_folder_is_refused(hopper, capsys):
    Path("results/sweep").mkdir(parents=True)
    with filelock.FileLock("results/sweep/lock"):
        assert sweep.main([*GRID, "--source", str(hopper)]) == 2
    assert "another sweep" in capsys.readouterr().err
