"""The code in docs/d4rl_tasks.md runs as it stands."""

import re
from pathlib import Path

from gymnasium.envs.mujoco.mujoco_env import expand_model_path

ROOT = Path(__file__).parents[2]


def test_the_pages_code_runs(renderer, hopper, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    (tmp_path / "hopper_medium-v2.hdf5").write_bytes(hopper.read_bytes())
    monkeypatch.setattr("d4rl_tasks.checksums._table", dict)
    (tmp_path / "mine.hdf5").write_bytes(hopper.read_bytes())
    (tmp_path / "robot.xml").write_text(Path(expand_model_path("hopper.xml")).read_text())
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "d4rl_tasks.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    exec("\n".join(blocks), names)
    assert names["scores"].shape == (10,) and len(names["mine"]) == len(names["dataset"]) > 0
    assert names["model"].nq == 6
