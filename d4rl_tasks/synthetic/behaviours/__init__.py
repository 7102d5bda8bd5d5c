"""Behaviour policies: small networks that collect synthetic datasets (see README.md)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from d4rl_tasks.errors import D4RLTaskError

FOLDER = Path(__file__).parent
MANIFEST = FOLDER / "manifest.json"
LOG_STD_RANGE = (-20.0, 2.0)


@dataclass(frozen=True)
class Behaviour:
    """A tanh-squashed Gaussian policy with two hidden layers of ReLU, in NumPy.

    Attributes:
        name: robot and training steps, e.g. "walker2d/0450000", or a file's name.
        training_steps: environment steps after which it was saved; 0 if unknown.
        weights: float32 arrays, named as in the .npz files (README.md).
        algorithm: what trained it.
    """

    name: str
    training_steps: int
    weights: dict[str, np.ndarray]
    algorithm: str

    def distribution(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, S) observations -> mean and log standard deviation before tanh, (n, A) each."""
        w = self.weights
        hidden = np.asarray(observations, dtype=np.float32)
        for layer in ("layer0", "layer1"):
            hidden = np.maximum(hidden @ w[f"{layer}_weight"] + w[f"{layer}_bias"], 0)
        mean = hidden @ w["mean_weight"] + w["mean_bias"]
        log_std = np.clip(hidden @ w["log_std_weight"] + w["log_std_bias"], *LOG_STD_RANGE)
        return mean, log_std

    def mean_action(self, observations: np.ndarray) -> np.ndarray:
        """(n, S) -> (n, A) float32 actions in [-1, 1], without noise."""
        return np.tanh(self.distribution(observations)[0])

    def sample(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Act by sampling.

        Args:
            observations: (n, S).
            noise: (n, A) standard normal.

        Returns:
            actions (n, A) float32 in [-1, 1], and the logs of their probability densities (n,),
            by the change of variables of tanh (Haarnoja et al. 2018, appendix C).
        """
        mean, log_std = self.distribution(observations)
        raw = mean + np.exp(log_std) * noise.astype(np.float32)
        normal = -0.5 * (np.square(noise) + np.log(2 * np.pi)) - log_std
        log_slope = 2 * (np.log(2) - raw - np.logaddexp(0, -2 * raw))
        return np.tanh(raw), (normal - log_slope).sum(axis=1)


@cache
def read_manifest() -> dict[str, list[dict]]:
    """The manifest: every behaviour by robot, in the order of training."""
    return json.loads(MANIFEST.read_text())


def load_behaviour(file: str) -> Behaviour:
    """Read a behaviour by its manifest's `file`, e.g. "walker2d/0450000.npz".

    Raises:
        D4RLTaskError: no behaviour has that name.
    """
    entries = read_manifest().get(file.partition("/")[0], [])
    entry = next((one for one in entries if one["file"] == file), None)
    if entry is None:
        raise D4RLTaskError(f"no behaviour {file!r}: {MANIFEST} lists them")
    with np.load(FOLDER / file, allow_pickle=False) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    name = file.removesuffix(".npz")
    return Behaviour(name, entry["training_steps"], weights, entry["algorithm"])
