"""What draws without a screen. It is chosen before MuJoCo is imported, which reads the choice."""

import os
import subprocess
import sys

from reports.errors import ReportError

PROBE = "import mujoco; mujoco.GLContext(16, 16).make_current()"


def choose_renderer() -> None:
    """Set MUJOCO_GL to what draws here without a screen, unless the user has set it.

    Each is tried in a process of its own: a library that is there may still have no driver, and a
    process that has loaded one cannot change to the other.

    Raises:
        ReportError: nothing draws.
    """
    if sys.platform != "linux":
        return
    chosen = os.environ.get("MUJOCO_GL")
    for name in [chosen] if chosen else ["egl", "osmesa"]:
        if _can_draw(name):
            os.environ["MUJOCO_GL"] = name
            return
    raise ReportError(
        f"MUJOCO_GL={chosen} cannot draw here: unset it to let the program choose"
        if chosen
        else "cannot draw: neither EGL nor OSMesa works here; install one, e.g. "
        "apt install libegl1 libgl1-mesa-dri, or libosmesa6"
    )


def _can_draw(name: str) -> bool:
    environment = os.environ | {"MUJOCO_GL": name}
    return not subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=60
    ).returncode
