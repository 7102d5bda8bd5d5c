"""Settings of all tests, and what several of them start from."""

import importlib.util
import os
import signal
import warnings

import pytest
import torch

from d4rl_tasks.physics import warn_if_unverified
from d4rl_tasks.rendering import RENDERERS, can_draw
from d4rl_tasks.synthetic.generate import generate

# The networks of the tests are too small to be worth several threads.
torch.set_num_threads(1)

# No test reaches the network, whatever it starts: requests to other hosts end at a closed port.
for scheme in ("http_proxy", "https_proxy"):
    os.environ[scheme] = os.environ[scheme.upper()] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"

# A shell's background jobs ignore Ctrl-C, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# These run only where gym, d4rl and mujoco-py are: see original_stack/build.
collect_ignore = [] if importlib.util.find_spec("mujoco_py") else ["original_stack"]


@pytest.fixture(scope="session", autouse=True)
def physics_has_warned():
    """Python 3.14 has another MuJoCo than the others: the first environment warns of it, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warn_if_unverified()


@pytest.fixture(scope="session")
def hopper(tmp_path_factory):
    """A small dataset of hopper-medium-v2, an HDF5 file."""
    path = tmp_path_factory.mktemp("data") / "hopper.hdf5"
    generate("hopper-medium-v2", path, transitions=1500)
    return path


@pytest.fixture(scope="session")
def renderer():
    """For tests that draw: a bare machine has neither EGL nor OSMesa."""
    if not any(map(can_draw, RENDERERS)):
        pytest.skip("nothing draws here: neither EGL nor OSMesa works")


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    """Runs write where they are started."""
    monkeypatch.chdir(tmp_path)
