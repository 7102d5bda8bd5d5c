"""Limits of memory and open files (RLIMIT_AS, RLIMIT_NOFILE): one line, whenever they are met."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1 << 20
is_cpu_build = pytest.mark.skipif(
    torch.version.cuda is not None, reason="CUDA's libraries alone need more than these limits"
)


def run_limited(tmp_path, hopper, limit, value, *more):
    """A short run that may have so much of something."""
    command = [sys.executable, str(ROOT / "main_training.py"), "--policy", "IQL"]
    command += ["--env", "hopper-medium-v2", "--source", str(hopper), "--max_timesteps", "20"]
    command += ["--logger", "none", "--hidden", "16", "16", "--eval_episodes", "1", *more]
    return subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)),
    )


def error_lines(done):
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("size", [80, 400, 600, 1023])
def test_too_little_memory_to_import_pytorch(tmp_path, hopper, size):
    done = run_limited(tmp_path, hopper, resource.RLIMIT_AS, size * MEBIBYTE)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{size} MiB" in error_lines(done)[0] and "ulimit -v" in error_lines(done)[0]


@is_cpu_build
@pytest.mark.parametrize("width", ["8000", "16000", "30000"])
def test_too_little_memory_for_a_run(tmp_path, hopper, width):
    more = ["--hidden", width, width]
    done = run_limited(tmp_path, hopper, resource.RLIMIT_AS, 1500 * MEBIBYTE, *more)
    assert done.returncode == 2
    assert len(error_lines(done)) == 1 and "out of memory" in error_lines(done)[0]


@is_cpu_build
def test_enough_memory(tmp_path, hopper):
    done = run_limited(tmp_path, hopper, resource.RLIMIT_AS, 4000 * MEBIBYTE)
    assert done.returncode == 0 and not error_lines(done)


@pytest.mark.parametrize("count", [6, 7, 8, 9, 10, 12, 64])
def test_open_files(tmp_path, hopper, count):
    done = run_limited(tmp_path, hopper, resource.RLIMIT_NOFILE, count)
    assert (done.returncode, len(error_lines(done))) in [(0, 0), (2, 1)]


def test_ctrl_c_ends_at_once_only_during_the_imports():
    code = (
        "import signal\n"
        "from experiment.start_up import end_guard, guard_imports\n"
        "def is_usual(): return signal.getsignal(2) is signal.default_int_handler\n"
        "guard_imports(); assert not is_usual()\n"
        "end_guard(); assert is_usual()\n"
        "signal.signal(2, signal.SIG_IGN); end_guard()\n"
        "assert signal.getsignal(2) is signal.SIG_IGN\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("program", ["main_training.py", "sweep.py", "report.py"])
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("ModuleNotFoundError(\"No module named 'numpy'\")", "pip install -r requirements.txt"),
        ("ImportError('libtorch.so: cannot map\\nsegment')", "cannot map segment"),
        ("MemoryError()", "out of memory"),
        ("OSError(24, 'Too many open files')", "Too many open files"),
    ],
)
def test_whatever_fails_in_the_imports(program, what, words):
    code = (
        "import runpy, sys\n"
        "class Fails:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy':\n"
        f"            raise {what}\n"
        "sys.meta_path.insert(0, Fails())\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = [{program!r}]\n"
        f"runpy.run_path(sys.path[0] + '/{program}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr
