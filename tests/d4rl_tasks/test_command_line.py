"""A program's output: readers that go away, encodings that lack a character, no output at all."""

import os
import subprocess
import sys
import time

PROGRAM = """
import sys
from d4rl_tasks.command_line import run_program

def body():
    for number in range(20_000):
        print("score", number, "\\u00b1 1")

sys.exit(run_program(body))
"""


def run(**settings):
    return subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, **settings)


def test_a_reader_that_goes_away_is_not_a_success():
    program = run(stdout=subprocess.PIPE)
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait(timeout=60) == 141


def test_a_line_arrives_before_the_next():
    """Whoever follows a log sees each evaluation when it ends."""
    body = "print('first', flush=False), __import__('time').sleep(60)"
    line = f"from d4rl_tasks.command_line import run_program; run_program(lambda: ({body}))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", line], stdout=subprocess.PIPE, env=environment
    ) as program:
        started = time.monotonic()
        assert program.stdout.readline() == b"first\n"
        assert time.monotonic() - started < 50
        program.kill()


def test_a_character_that_the_encoding_lacks_is_escaped():
    program = run(stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    output, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, b"")
    assert output.startswith(b"score 0 \\xb1 1\n")


def test_a_closed_output_is_not_an_error():
    program = run(preexec_fn=lambda: os.close(1))
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (0, b"")
