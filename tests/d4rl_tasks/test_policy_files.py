"""Behaviours from anybody's files: read rightly, or refused in one line."""

import contextlib
import os
import zipfile

import h5py
import numpy as np
import pytest

from d4rl_tasks import D4RLTaskError
from d4rl_tasks.synthetic.behaviours import FOLDER, load_behaviour
from d4rl_tasks.synthetic.generate import generate
from d4rl_tasks.synthetic.policy_files import read_policy

SIZES = 11, 3


@pytest.fixture(scope="module")
def ours():
    files = sorted((FOLDER / "hopper").glob("*.npz"))
    return load_behaviour(f"hopper/{files[-1].name}")


def save(path, weights):
    np.savez(path, **weights)
    return path


def fails(path, match):
    with pytest.raises(D4RLTaskError, match=match) as caught:
        read_policy(path, *SIZES)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_an_npz_acts_as_the_behaviour_that_wrote_it(tmp_path, ours):
    read = read_policy(save(tmp_path / "mine.npz", ours.weights), *SIZES)
    observations = np.random.default_rng(0).standard_normal((5, 11))
    noise = np.random.default_rng(1).standard_normal((5, 3))
    for got, expected in zip(
        read.sample(observations, noise), ours.sample(observations, noise), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_the_policy_inside_a_d4rl_file_generates_the_same_data(tmp_path, ours):
    npz = save(tmp_path / "mine.npz", ours.weights)
    first, second = tmp_path / "first.hdf5", tmp_path / "second.hdf5"
    generate("hopper-expert-v2", first, transitions=300, behaviour=npz)
    generate("hopper-expert-v2", second, transitions=300, behaviour=first)
    with h5py.File(first) as one, h5py.File(second) as two:
        for key in ("observations", "actions", "rewards", "infos/action_log_probs"):
            np.testing.assert_array_equal(one[key], two[key])
        assert list(one.attrs["behaviours"]) == ["mine.npz"]
        assert list(two.attrs["behaviours"]) == ["first.hdf5"]
        assert one["metadata/algorithm"].asstr()[()] == "unknown"
        assert "iteration" not in one["metadata"]


def test_a_header_that_is_not_python_is_unreadable(tmp_path, ours):
    path = save(tmp_path / "p.npz", ours.weights)
    with zipfile.ZipFile(path, "a") as archive:
        header = b"{'descr': (" + b" " * 108 + b"\n"
        archive.writestr("layer0_weight.npy", b"\x93NUMPY\x01\x00" + bytes([120, 0]) + header)
    fails(path, "is not readable")


def test_missing_and_odd_files(tmp_path):
    fails(tmp_path / "none.npz", "none.npz does not exist")
    fails(tmp_path, "Is a directory")
    os.mkfifo(tmp_path / "pipe.npz")
    fails(tmp_path / "pipe.npz", "not a regular file")
    (tmp_path / "text.npz").write_text("a policy")
    fails(tmp_path / "text.npz", "not readable as .npz or HDF5")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("mean_bias", lambda a: a[:-1], r"'mean_bias' of shape \(2,\), the task needs \(3,\)"),
        ("layer0_weight", lambda a: a.T, "'layer0_weight' of shape"),
        ("layer1_weight", lambda a: a[..., None], "'layer1_weight' of shape"),
        ("layer0_bias", lambda a: a * np.nan, "NaN or infinity in 'layer0_bias'"),
        ("log_std_bias", lambda a: a.astype(complex), "complex128 in 'log_std_bias', not numbers"),
        ("log_std_bias", lambda a: a.astype(str), "in 'log_std_bias', not numbers"),
        ("mean_weight", lambda a: a.astype(object), "not readable"),
        ("layer0_bias", lambda a: a[0], "of shape"),
    ],
)
def test_bad_arrays(tmp_path, ours, name, change, match):
    weights = ours.weights | {name: change(ours.weights[name])}
    fails(save(tmp_path / "bad.npz", weights), match)


@pytest.mark.parametrize("name", ["layer0_weight", "log_std_bias"])
def test_a_missing_array(tmp_path, ours, name):
    weights = {key: array for key, array in ours.weights.items() if key != name}
    fails(save(tmp_path / "bad.npz", weights), "lacks an array")
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    fails(tmp_path / "empty.hdf5", "has no array 'metadata/policy/fc0/weight'")


def test_no_damaged_byte_ends_in_a_traceback(tmp_path, ours):
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, **ours.weights)
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(D4RLTaskError):  # or the byte does not matter
            read_policy(path, *SIZES)


def test_a_zip_that_unpacks_to_more_than_a_policy_has(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("layer0_weight.npy", bytes(65 << 20))
    fails(path, "unpacks to")


def test_nothing_is_unpickled(tmp_path, ours):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    fails(save(tmp_path / "trap.npz", ours.weights | {"layer0_weight": trap}), "not readable")
    assert not (tmp_path / "executed").exists()
