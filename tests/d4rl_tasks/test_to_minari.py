"""A flat file as a Minari dataset, read by Minari itself and by our loader."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

import d4rl_tasks
from d4rl_tasks.synthetic.generate import generate
from d4rl_tasks.to_minari import convert, main

TASKS = ("hopper-medium-v2", "antmaze-umaze-v0")
ARRAYS = ("observations", "actions", "next_observations", "rewards", "terminals")


@pytest.fixture(autouse=True)
def minari_root(tmp_path, monkeypatch):
    """Where Minari's datasets lie."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture(scope="module", params=TASKS)
def generated(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("flat") / f"{request.param}.hdf5"
    generate(request.param, path, 1_500)
    return request.param, path


def without(path, out, *keys):
    out.write_bytes(path.read_bytes())
    with h5py.File(out, "r+") as file:
        for key in keys:
            del file[key]
    return out


def test_minari_reads_every_row_of_a_generated_file(generated, minari_root):
    name, path = generated
    dataset_id = convert(path)
    assert dataset_id == f"synthetic-{name}"
    assert [entry.name for entry in minari_root.parent.iterdir()] == ["minari"]
    with h5py.File(path) as file:
        flat = {key: values[()] for key, values in file.items() if isinstance(values, h5py.Dataset)}
    stored = minari.load_dataset(dataset_id)
    assert stored.total_steps == 1_500
    episodes = list(stored.iterate_episodes())
    assert len(episodes) == (flat["terminals"] | flat["timeouts"]).sum()
    for key, parts in {
        "observations": [episode.observations[:-1] for episode in episodes],
        "next_observations": [episode.observations[1:] for episode in episodes],
        "actions": [episode.actions for episode in episodes],
        "rewards": [episode.rewards for episode in episodes],
        "terminals": [episode.terminations for episode in episodes],
        "timeouts": [episode.truncations for episode in episodes],
    }.items():
        np.testing.assert_array_equal(np.concatenate(parts), flat[key], err_msg=key)


def test_minari_makes_our_environment_and_knows_the_scores(generated):
    name, path = generated
    stored = minari.load_dataset(convert(path))
    environment = stored.recover_environment()
    ours = d4rl_tasks.make(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, *ours.action_space.shape))
    np.testing.assert_array_equal(environment.reset(seed=3)[0], ours.reset(seed=3)[0])
    for action in actions:
        np.testing.assert_array_equal(environment.step(action)[0], ours.step(action)[0])
    returns = np.array([0.0, 700.0])
    np.testing.assert_allclose(
        minari.get_normalized_score(stored, returns), d4rl_tasks.normalized_score(name, returns)
    )


@pytest.mark.parametrize("removed", [(), ("timeouts",)])
def test_without_next_observations_the_transitions_are_those_of_our_loader(
    generated, tmp_path, removed
):
    name, path = generated
    path = without(path, tmp_path / "flat.hdf5", "next_observations", *removed)
    flat = d4rl_tasks.load_dataset(name, path)
    stored = d4rl_tasks.load_dataset(name, f"minari:{convert(path)}")
    assert len(stored.rewards) > 1_000
    assert stored.synthetic
    for key in ARRAYS:
        np.testing.assert_array_equal(getattr(stored, key), getattr(flat, key), err_msg=key)


def test_a_file_of_d4rls_own_says_nothing_of_its_task(hopper, tmp_path, capsys):
    path = without(hopper, tmp_path / "flat.hdf5")
    with h5py.File(path, "r+") as file:
        file.attrs.clear()
    assert main([str(path)]) == 2
    assert "--env" in capsys.readouterr().err
    assert main([str(path), "--env", "hopper-medium-v2", "--id", "ours/hopper/medium-v7"]) == 0
    assert capsys.readouterr().out == "minari:ours/hopper/medium-v7\n"
    assert list(minari.list_local_datasets()) == ["ours/hopper/medium-v7"]
    stored = d4rl_tasks.load_dataset("hopper-medium-v2", "minari:ours/hopper/medium-v7")
    assert not stored.synthetic
    assert main([str(path), "--env", "hopper-medium-v2"]) == 0
    assert capsys.readouterr().out == "minari:hopper-medium-v2\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.hdf5"], "nowhere.hdf5"),
        (["bad.hdf5"], "not readable as HDF5"),
        (["bad.hdf5", "--env", "hopper-medium-v2"], "not readable as HDF5"),
        (["hopper.hdf5", "--env", "hoper-medium-v2"], "hopper-medium-v2"),
        (["hopper.hdf5", "--env", "walker2d-medium-v2"], "observations"),
        (["hopper.hdf5", "--id", "no version"], "no version"),
        (["hopper.hdf5", "--id", "../outside-v0"], "outside"),
        (["hopper.hdf5", "--id", "hopper"], "-v0"),
        (["hopper.hdf5", "--id", "taken-v0"], "taken-v0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    hopper, tmp_path, monkeypatch, minari_root, capsys, arguments, words
):
    convert(hopper, dataset_id="taken-v0")
    monkeypatch.chdir(tmp_path)
    Path("bad.hdf5").write_bytes(b"no HDF5")
    Path("hopper.hdf5").write_bytes(hopper.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_one_line(hopper, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "minari"))
    assert main([str(hopper)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "file" in error


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs another file system")
def test_minaris_folder_may_be_a_link_to_another_disk(hopper, tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "link").symlink_to(elsewhere + "/minari")
        Path(elsewhere, "minari").mkdir()
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "link"))
        name = convert(hopper)
        assert name in minari.list_local_datasets()
        assert [path.name for path in Path(elsewhere).iterdir()] == ["minari"]


def test_without_minari_it_says_what_to_install(hopper, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "minari", None)
    assert main([str(hopper)]) == 2
    assert "pip install 'minari[hdf5]'" in capsys.readouterr().err


def test_as_a_user_types_it(hopper, minari_root):
    command = [sys.executable, "-m", "d4rl_tasks.to_minari", str(hopper)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (0, "minari:synthetic-hopper-medium-v2\n")
    assert done.stderr == ""


@pytest.mark.parametrize("name", TASKS)
def test_minaris_collector_records_our_environments(name):
    pytest.importorskip("jax", reason="the collector needs it")
    collector = minari.DataCollector(d4rl_tasks.make(name))
    actions, seen = np.random.default_rng(0), [collector.reset(seed=0)[0]]
    for _ in range(60):
        action = actions.uniform(-1, 1, collector.action_space.shape).astype(np.float32)
        observation, _, terminated, truncated, _ = collector.step(action)
        if terminated or truncated:
            collector.reset()
        elif len(seen) < 10:
            seen.append(observation)
    collector.create_dataset("test/ours-v0", algorithm_name="random")
    stored = minari.load_dataset("test/ours-v0")
    assert stored.total_steps == 60
    assert stored.recover_environment().spec.id == f"d4rl/{name}"
    dataset = d4rl_tasks.load_dataset(name, "minari:test/ours-v0")
    assert len(dataset) == 60
    np.testing.assert_allclose(dataset.observations[: len(seen)], seen, rtol=1e-6, atol=1e-6)
