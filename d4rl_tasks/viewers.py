"""Pictures of several environments in one process."""

import atexit
import functools
import weakref
from typing import Any

from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer, OffScreenViewer

_OPEN: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


class Renderer(MujocoRenderer):
    """Gymnasium's renderer, whose pictures do not depend on other renderers of the process.

    Gymnasium makes a GL context current when it is created, and draws into whichever is current
    later on: another environment's, or one that has been closed.
    """

    def _get_viewer(self, render_mode: str | None) -> Any:
        viewer = super()._get_viewer(render_mode)
        _close_at_exit()  # registered after the first context: it runs before EGL's own end
        _OPEN.add(self)
        viewer.make_context_current()
        return viewer

    def close(self) -> None:
        """Free the contexts; a later `render` makes new ones."""
        for viewer in self._viewers.values():
            viewer.make_context_current()
            viewer.con.free()
            # Not `close` where nothing is on a screen: that ends GLFW for all environments.
            viewer.free() if isinstance(viewer, OffScreenViewer) else viewer.close()
        self._viewers.clear()
        self.viewer = None
        _OPEN.discard(self)


@functools.cache
def _close_at_exit() -> None:
    atexit.register(_close_all)


def _close_all() -> None:
    for renderer in list(_OPEN):
        renderer.close()
