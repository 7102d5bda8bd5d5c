"""Reads a tanh-Gaussian policy from anybody's file. Nothing in the file is executed."""

import zipfile
from pathlib import Path

import numpy as np

from d4rl_tasks.errors import D4RLTaskError, foreign_errors
from d4rl_tasks.files import open_regular, read_errors
from d4rl_tasks.hdf5 import UnusableDatasetError, read_small_arrays
from d4rl_tasks.synthetic.behaviours import Behaviour

# Our names of the layers, and those in D4RL's v1 and v2 files.
LAYERS = {
    "layer0": "fc0",
    "layer1": "fc1",
    "mean": "last_fc",
    "log_std": "last_fc_log_std",
}
PARTS = ("weight", "bias")
LARGEST = 64 << 20  # bytes of an array, and of all arrays of an .npz
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class BadPolicyError(D4RLTaskError):
    """A file holds no policy for the task."""

    def __init__(self, path: Path, problem: str):
        super().__init__(
            f"{path} {problem}: give an .npz with a policy's weights, or a D4RL file that has "
            "metadata/policy"
        )


def read_policy(path: Path, observation_size: int, action_size: int) -> Behaviour:
    """Read a policy with two hidden layers of ReLU and a tanh-Gaussian output.

    Args:
        path: an .npz file with the names of behaviours/README.md, weights (in, out); or an HDF5
            file of D4RL's with `metadata/policy/fc0/weight` and so on, weights (out, in).
        observation_size, action_size: of the task.

    Raises:
        D4RLTaskError: the file cannot be read, or its policy has other layers or sizes.
    """
    with read_errors(path), open_regular(path) as file:
        is_hdf5 = file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
    weights = _read_hdf5(path) if is_hdf5 else _read_npz(path)
    _check(path, weights, observation_size, action_size)
    # Contiguous, so that a policy acts the same to the bit wherever it is read from.
    weights = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
    return Behaviour(path.name, 0, weights, algorithm="unknown")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    names = [f"{layer}_{part}" for layer in LAYERS for part in PARTS]
    # NumPy, zipfile and the decompressors each raise errors of their own for a damaged file.
    with foreign_errors(
        lambda reason: BadPolicyError(path, f"is not readable as .npz or HDF5 ({reason})")
    ):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise BadPolicyError(path, f"unpacks to {size:,} bytes, more than a policy has")
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in names if name not in arrays]
            if missing:
                raise BadPolicyError(path, f"lacks an array ({missing[0]})")
            return {name: arrays[name] for name in names}


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    names = {
        f"{ours}_{part}": f"metadata/policy/{theirs}/{part}"
        for ours, theirs in LAYERS.items()
        for part in PARTS
    }
    try:
        arrays = read_small_arrays(path, list(names.values()), LARGEST)
    except UnusableDatasetError as error:
        raise BadPolicyError(path, error.problem) from error
    return {name: array.T for name, array in zip(names, arrays, strict=True)}


def _check(path: Path, weights: dict[str, np.ndarray], inputs: int, outputs: int) -> None:
    first, second = (weights[f"{layer}_bias"].size for layer in ("layer0", "layer1"))
    sizes = {
        "layer0": (inputs, first),
        "layer1": (first, second),
        "mean": (second, outputs),
        "log_std": (second, outputs),
    }
    for layer, (size_in, size_out) in sizes.items():
        expected = {f"{layer}_weight": (size_in, size_out), f"{layer}_bias": (size_out,)}
        for name, shape in expected.items():
            array = weights[name]
            if array.dtype.kind not in "fiu":
                raise BadPolicyError(path, f"has {array.dtype} in '{name}', not numbers")
            if array.shape != shape:
                problem = f"has '{name}' of shape {array.shape}, the task needs {shape}"
                raise BadPolicyError(path, problem)
            if not np.isfinite(array).all():
                raise BadPolicyError(path, f"has NaN or infinity in '{name}'")
