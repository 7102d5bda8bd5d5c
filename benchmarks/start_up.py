"""Seconds from the command to the end of the first train step, with the dataset cached.

    python -m benchmarks.start_up [--env walker2d-expert-v2] [--policy DMPO]

The least and the most of five runs; "imports" is the share of `import main_training`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from d4rl_tasks import load_dataset
from d4rl_tasks.command_line import Parser

ROOT = Path(__file__).parent.parent
# The main job, which ends after its first train step.
PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
import main_training, utils
print("imported", time.time())
train = utils.Policy.train

def first_step(policy, replay_buffer, batch_size):
    train(policy, replay_buffer, batch_size)
    print("trained", time.time())
    raise SystemExit

utils.Policy.train = first_step
main_training.main({arguments!r})
"""
RUNS = 5


def start_up(arguments: list[str]) -> tuple[float, float]:
    """Seconds until the imports are done, and until the first train step is."""
    with tempfile.TemporaryDirectory() as folder:
        program = PROGRAM.format(root=str(ROOT), arguments=arguments)
        start = time.time()
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = dict(line.split() for line in run.stdout.splitlines() if len(line.split()) == 2)
    return float(lines["imported"]) - start, float(lines["trained"]) - start


def main() -> None:
    """Measure and print."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--env", default="walker2d-expert-v2")
    parser.add_argument("--policy", default="DMPO")
    arguments = parser.parse_args()
    load_dataset(arguments.env, "synthetic")  # generated before, if it has to be
    options = ["--env", arguments.env, "--policy", arguments.policy, "--source", "synthetic"]
    imports, totals = zip(*(start_up(options) for _ in range(RUNS)), strict=True)
    print(f"imports          {min(imports):.1f} to {max(imports):.1f} s")
    print(f"first train step {min(totals):.1f} to {max(totals):.1f} s")


if __name__ == "__main__":
    main()
