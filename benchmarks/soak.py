"""Memory and open files of a long run, sampled from outside while it trains (Linux).

python -m benchmarks.soak --steps 100000
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from d4rl_tasks.command_line import Parser
from d4rl_tasks.synthetic.generate import generate

TASK = "hopper-medium-v2"
MAIN = Path(__file__).parent.parent / "main_training.py"


def sample(pid: int) -> tuple[float, int]:
    """Resident memory in MB and open files of a process."""
    process = Path("/proc") / str(pid)
    kilobytes = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())[1]
    return int(kilobytes) / 1024, len(list((process / "fd").iterdir()))


def main() -> None:
    """Train in a folder of its own; print a line for every evaluation."""
    parser = Parser(description=__doc__)
    parser.add_argument("--policy", default="IQL", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100_000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "data.hdf5"
        generate(TASK, dataset, transitions=20_000)
        options = ["--env", TASK, "--source", dataset, "--max_timesteps", str(arguments.steps)]
        command = [sys.executable, MAIN, "--policy", arguments.policy, *options]
        run = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        print(f"{'step':>8} {'RSS, MB':>8} {'files':>6} {'minutes':>8}")
        started = time.monotonic()
        for line in run.stdout:
            if line.startswith("step "):
                step = line.split()[1].split("/")[0]
                memory, files = sample(run.pid)
                minutes = (time.monotonic() - started) / 60
                print(f"{step:>8} {memory:8.1f} {files:6} {minutes:8.1f}", flush=True)
        sys.exit(run.wait())


if __name__ == "__main__":
    main()
