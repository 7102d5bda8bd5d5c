"""Input that nobody would type on purpose: never a traceback, a hang or half a file."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import exit_code_and_errors

from d4rl_tasks import D4RLTaskError, load_dataset
from d4rl_tasks.synthetic.generate import generate
from experiment.files import DamagedError, read_content, to_bytes, write_content
from experiment.options import make_parser

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
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
# Valid words: most of a command line is accepted, so that the strange part is met later.
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
    "--score_type": ["q", "adv"],
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


def is_small(argv):
    """Sizes that are allowed but would take gigabytes do not test the messages."""
    return not any(word.isdecimal() and 10_000 < float(word) <= 1e6 for word in argv)


@given(argv=arguments)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_command_lines(hopper, argv):
    small = ["--policy", "AWAC", "--env", "hopper-medium-v2", "--hidden", "4", "4", *QUIET]
    argv = [*small, *argv, "--source", str(hopper), "--max_timesteps", "2"]
    if not is_small(argv):
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        code, errors = exit_code_and_errors(argv)
        assert code in (0, 1, 2)
        if code:
            assert errors[-1].startswith("error: ")
            assert sum(line.startswith("error: ") for line in errors) == 1
        assert not list(Path().glob("**/*.tmp"))
        for path in Path().glob("models/*.safetensors*"):
            read_content(path)


QUIET = ["--logger", "none", "--eval_episodes", "1"]
SMALL_RUN = ["--policy", "IQL", "--env", "hopper-medium-v2", "--hidden", "2", "2"]


@pytest.fixture(scope="module")
def checkpoint(hopper, tmp_path_factory):
    """A run's folder, the path of its checkpoint in it, and its command line."""
    folder = tmp_path_factory.mktemp("run")
    argv = [*SMALL_RUN, "--source", str(hopper), "--max_timesteps", "2", *QUIET]
    with contextlib.chdir(folder):
        assert exit_code_and_errors(argv)[0] == 0
        (path,) = Path("models").glob("*.checkpoint.safetensors")
    return folder, path, argv


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
    folder, path, _ = checkpoint
    good = (folder / path).read_bytes()
    changed = folder / "changed"
    changed.write_bytes(mutate(good, changes))
    try:
        content = read_content(changed)
    except DamagedError:
        return
    assert to_bytes(content) == good  # the change was one of JSON's spaces, or none


HOSTILE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([torch.zeros(3), torch.ones(2, 2), torch.tensor(1), torch.tensor(-1.0)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


def places(value, path=()):
    """The path of every part of nested content."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, (list, tuple)) and len(value) < 50:
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(value, path, new):
    """Nested content with the part at `path` replaced."""
    if not path:
        return new
    key, *rest = path
    items = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    items[key] = replaced(items[key], rest, new)
    return items if isinstance(value, dict) else type(value)(items.values())


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_checkpoints_with_wrong_contents_are_refused_or_trained_on(checkpoint, data):
    """A checksum that fits does not make a checkpoint: each is resumed and trained to its end."""
    folder, path, argv = checkpoint
    content = read_content(folder / path)
    place = data.draw(st.sampled_from(list(places(content))[1:]))
    content = replaced(content, place, data.draw(HOSTILE))
    with tempfile.TemporaryDirectory() as other, contextlib.chdir(other):
        write_content(path, content)
        code, errors = exit_code_and_errors([*argv, "--max_timesteps", "4"])
    assert code in (0, 1, 2), (place, errors)
    if code:
        assert errors[-1].startswith("error: ") and len(errors[-1]) < 2_000
        assert sum(line.startswith("error: ") for line in errors) == 1


@given(changes=edits)
@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=UNLIMITED)
def test_changed_datasets(hopper, changes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.hdf5"
        path.write_bytes(mutate(hopper.read_bytes(), changes))
        with contextlib.suppress(D4RLTaskError), contextlib.redirect_stderr(io.StringIO()):
            dataset = load_dataset("hopper-medium-v2", path)
            assert np.isfinite(dataset.observations).all() and np.isfinite(dataset.rewards).all()
