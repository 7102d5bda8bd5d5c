"""Rendering without a screen, and MuJoCo on machines that cannot render."""

import functools
import importlib
import os
import subprocess
import sys

from d4rl_tasks.errors import D4RLTaskError

RENDERERS = "egl", "osmesa"
PATIENCE = 60  # seconds for a renderer to show that it works
PROBE = "import mujoco; mujoco.GLContext(16, 16).make_current()"


def import_mujoco() -> None:
    """Import MuJoCo even if MUJOCO_GL names what this machine lacks: only drawing needs that."""
    try:
        importlib.import_module("mujoco")
    except Exception:  # RuntimeError, AttributeError, ImportError: it depends on what is missing
        chosen = os.environ.pop("MUJOCO_GL", None)
        if chosen is None:
            raise
        importlib.import_module("mujoco")
        os.environ["MUJOCO_GL"] = chosen


def choose_renderer() -> None:
    """Set MUJOCO_GL to a renderer that works here without a screen, unless the user has set it.

    Raises:
        D4RLTaskError: nothing draws.
    """
    if sys.platform != "linux":
        return
    chosen = os.environ.get("MUJOCO_GL")
    for name in [chosen] if chosen else RENDERERS:
        if can_draw(name):
            os.environ["MUJOCO_GL"] = name
            return
    raise D4RLTaskError(
        f"MUJOCO_GL={chosen} cannot draw here: unset it to let the program choose"
        if chosen
        else "cannot draw: neither EGL nor OSMesa works here; install one, e.g. "
        "apt install libegl1 libgl1-mesa-dri, or libosmesa6"
    )


@functools.cache
def can_draw(name: str) -> bool:
    """Whether a value of MUJOCO_GL works here.

    It is tried in a process of its own: a library that is there may still have no driver, and a
    process that has loaded one cannot change to the other.
    """
    environment = os.environ | {"MUJOCO_GL": name}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:  # a driver that hangs
        return False
    return not probe.returncode
