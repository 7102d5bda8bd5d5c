"""Runs that several tests of reports start from."""

import os
import shutil
from pathlib import Path

import pytest

import main_training
from d4rl_tasks.synthetic.generate import generate


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with results/ and models/ of five short runs."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "hopper.hdf5"
    generate("hopper-medium-v2", data, transitions=1500)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for policy, seed in [("AWAC", 1), ("AWAC", 2), ("DMPO", 1), ("DMPO_ant", 1), ("IQL", 1)]:
            options = f"--policy {policy} --seed {seed} --env hopper-medium-v2 --logger none"
            shorter = "--max_timesteps 24 --eval_freq 4 --c_loss_freq 4 --batch_size 16"
            words = [*options.split(), *shorter.split(), "--source", str(data)]
            assert main_training.main(words) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def results(trained, tmp_path):
    """A copy of the results, to be changed."""
    return shutil.copytree(trained / "results", tmp_path / "results")
