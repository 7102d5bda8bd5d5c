"""Input that nobody would type on purpose: never a traceback, a hang or half a file."""

import contextlib
import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d4rl_tasks import D4RLTaskError, load_dataset
from d4rl_tasks.synthetic.generate import generate
from experiment.checkpoints import FORMAT, SUMMED, DamagedError, from_bytes
from main_training import main, make_parser

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
UNLIMITED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
# Not of the test: they would download, or print and leave.
OPTIONS = sorted(
    {option for action in make_parser()._actions for option in action.option_strings}
    - {"--help", "-h", "--source", "--max_timesteps"}
)
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1e3",
    "0.5",
    "1e-300",
    "1e300",
    "1e999",
    "nan",
    "-inf",
    "\u0661",
]
WORDS = [
    *("", " ", "DMPO", "dmpo_ant", "AWAC", "IQL", "mixawac", "LP_AWAC", "adv", "raw", "clamp"),
    *("True", "false", "default", "hopper-medium-v2", "antmaze-umaze-v0", "ant-expert-v2"),
    *(".", "/", "..", "/dev/null", "~", "models", "--", "--fresh", "x" * 300, "é\n", "%s", "1 2"),
]
values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)
# What is accepted, so that most of a command line is, and something strange happens later.
ACCEPTED = {
    "--policy": ["DMPO", "AWAC", "IQL", "mixAWAC", "LP_AWAC"],
    "--env": ["hopper-medium-v2", "hopper-expert-v0", "d4rl/hopper-medium-v2"],
    "--eval_freq": ["1", "3", "1e12"],
    "--c_loss_freq": ["1", "2", "1e300"],
    "--checkpoint_freq": ["1", "7"],
    "--batch_size": ["1", "2", "100"],
    "--hidden": ["1 1", "3 5"],
    "--latent_disc_dim": ["1", "2"],
    "--policy_freq": ["1", "1e9"],
    "--discount": ["0", "1"],
    "--tau": ["1", "1e-300"],
    "--scale": ["0", "1e38", "1e300"],
    "--weight_type": ["", "raw", "clamp"],
    "--ilr": ["1e-300", "1e300"],
    "--max_latent_action": ["1e-300", "1e300"],
    "--expectile": ["0", "1"],
    "--seed": ["0", "2147483648"],
    "--score_type": ["q", "x" * 300, "../..", "é"],
    "--load_model": ["default", "models"],
}
accepted = st.sampled_from(sorted(ACCEPTED)).flatmap(
    lambda option: st.sampled_from(ACCEPTED[option]).map(
        lambda text: [option, *(text.split() if option == "--hidden" else [text])]
    )
)
anything = st.tuples(st.sampled_from(OPTIONS), st.lists(values, max_size=2)).map(
    lambda pair: [pair[0], *pair[1]]
)
flags = st.sampled_from(["--info-reg", "--no_noise", "--no-normalize", "--fresh"]).map(
    lambda flag: [flag]
)
arguments = st.tuples(
    st.lists(st.one_of(accepted, flags), max_size=4), st.lists(anything, max_size=1)
).map(lambda lists: [word for words in (*lists[0], *lists[1]) for word in words])


@pytest.fixture(scope="module")
def hopper(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "hopper.hdf5"
    generate("hopper-medium-v2", path, transitions=300)
    return path


def run(argv):
    """The exit code and the lines on stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
    return code, errors.getvalue().splitlines()


def is_small(argv):
    """Sizes that are allowed but would take gigabytes are no test of the messages."""
    return not any(word.isdecimal() and 10_000 < float(word) <= 1e6 for word in argv)


@given(argv=arguments)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_command_lines(hopper, argv):
    small = ["--policy", "AWAC", "--env", "hopper-medium-v2", "--hidden", "4", "4"]
    argv = [*small, *argv, "--source", str(hopper), "--max_timesteps", "2"]
    if not is_small(argv):
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        code, errors = run(argv)
        assert code in (0, 1, 2)
        if code:
            assert errors[-1].startswith("error: ")
            assert sum(line.startswith("error: ") for line in errors) == 1
        assert not list(Path().glob("**/*.tmp"))
        for path in Path().glob("models/*.pt"):
            torch.load(path, weights_only=True)
        for path in Path().glob("models/*.ckpt*"):
            from_bytes(path.read_bytes())


@pytest.fixture(scope="module")
def checkpoint(hopper, tmp_path_factory):
    with contextlib.chdir(tmp_path_factory.mktemp("run")):
        argv = ["--policy", "IQL", "--env", "hopper-medium-v2", "--source", str(hopper)]
        assert run([*argv, "--max_timesteps", "2", "--hidden", "2", "2"])[0] == 0
        (path,) = Path("models").glob("*.ckpt")
        return path.read_bytes()


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=16),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data, changes):
    data = bytearray(data)
    for kind, where, extra in changes:
        # Half of the changes hit the header, which a uniform choice would hardly ever meet.
        length = min(len(data), 4_000) if len(extra) % 2 else len(data)
        place = int(where * length)
        if kind == "flip" and data:
            data[place] ^= extra[0] or 1
        elif kind == "insert":
            data[place:place] = extra
        elif kind == "delete":
            del data[place : place + len(extra)]
        elif kind == "repeat":
            data[place:place] = data[place : place + 64]
    return bytes(data)


@given(changes=edits)
@settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_changed_checkpoints(checkpoint, changes):
    changed = mutate(checkpoint, changes)
    if changed != checkpoint:
        with pytest.raises(DamagedError):
            from_bytes(changed)


@given(changes=edits)
@settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_changed_checkpoints_with_a_checksum_that_fits(checkpoint, changes):
    """Somebody else's file: it is read as data or refused."""
    body = mutate(checkpoint[SUMMED:], changes)
    head = f"{FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode()
    with contextlib.suppress(DamagedError):
        from_bytes(head + body)


@given(changes=edits)
@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_changed_datasets(hopper, changes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.hdf5"
        path.write_bytes(mutate(hopper.read_bytes(), changes))
        with contextlib.suppress(D4RLTaskError), contextlib.redirect_stderr(io.StringIO()):
            dataset = load_dataset("hopper-medium-v2", path)
            assert np.isfinite(dataset.observations).all() and np.isfinite(dataset.rewards).all()
