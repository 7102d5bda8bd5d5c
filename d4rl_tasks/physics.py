"""MuJoCo 2.1's physics on today's MuJoCo.

D4RL was recorded, and every published D4RL score was evaluated, on MuJoCo 2.1.0 or older. Today's
MuJoCo moves the same robots differently, for four reasons. Three are in the model, and this module
undoes them:

1. Capsule inertia. Until 2.1.1 the model compiler took the mass and inertia of a capsule (radius r,
   half-length h) to be those of a cylinder of radius r and half-length h + r/2; 2.1.2 made them
   exact (https://mujoco.readthedocs.io/en/stable/changelog.html, "computed capsule inertias are now
   exact"). The exact capsule is heavier by 2 pi r^3 density (2/3 - 1/2), which is 2 to 7 % of
   Walker2d's bodies. Remedy: compile a twin of the model in which every capsule is that cylinder,
   and copy the twin's body masses, inertias and inertial frames. The capsules stay capsules for
   collision.
2. Contact margins. Until 3.4 the margin of a contact was the larger of its two geoms' margins;
   since 3.5 it is their sum. Remedy: halve every geom's margin. That is exact where all geoms have
   the same margin, as in D4RL's robots; other models are refused, not silently approximated.
3. The inverse weight of bodies that only slide, as maze2d's ball does (`body_invweight0`, by which
   the solver scales contacts). Before 3.0 it was the mean over x, y and z of the inverse mass, with
   0 for an axis along which the body cannot move; since then it is 1 / mass. Remedy: set the mean.

With these, one environment step from a recorded state agrees with MuJoCo 2.1.0 through mujoco-py to
about 1e-12. Compare one step, not rollouts: contact-rich robots are chaotic, any rounding grows.

The fourth cannot be undone in the model: up to 3.2.6 a sphere or capsule whose centre line
is inside a box counts as one radius deep in it, since 3.2.7 as deep as it is. About two steps in a
thousand of an ant walking in a maze get a leg so far into a wall. So the version pinned is 3.2.6.
"""

import warnings
from functools import cache

import mujoco
import numpy as np

from d4rl_tasks.errors import D4RLTaskError

OLDEST_VERIFIED = (3, 2, 6)
DEPTH_IN_BOXES_CHANGED = (3, 2, 7)
CONTACTS_CHANGED = (3, 11)
MARGINS_ADD_SINCE = (3, 5)
FREE_JOINT_RK4_CHANGED = (4, 0)
ONLY_SLIDES = 2  # of `body_simple`


def mujoco_version() -> tuple[int, ...]:
    """Version of the MuJoCo library in use, as integers, e.g. (3, 10, 0)."""
    return tuple(int(part) for part in mujoco.mj_versionString().split("."))


def compile_as_mujoco_2_1(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compile a model so that it moves as MuJoCo 2.1.0 moves it.

    Args:
        spec: any model; it is left as it was.

    Returns:
        A new MjModel with 2.1's capsule masses and inertias, contact margins and inverse weights.

    Raises:
        D4RLTaskError: the model's contact margins cannot be expressed in this MuJoCo version.
    """
    model = spec.compile()
    _copy_inertia(_capsules_as_cylinders(spec).compile(), model)
    if mujoco_version() >= MARGINS_ADD_SINCE:
        _halve_margins(model)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    _average_inverse_weights(model)
    return model


def _capsules_as_cylinders(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    twin = spec.copy()
    for geom in twin.geoms:
        if geom.type != mujoco.mjtGeom.mjGEOM_CAPSULE:
            continue
        geom.type = mujoco.mjtGeom.mjGEOM_CYLINDER
        radius = geom.size[0]
        if np.isfinite(geom.fromto[0]):
            start, end = geom.fromto[:3].copy(), geom.fromto[3:].copy()
            cap = (end - start) / np.linalg.norm(end - start) * radius / 2
            geom.fromto = np.concatenate([start - cap, end + cap])
        else:
            geom.size = geom.size + np.array([0, radius / 2, 0])
    return twin


def _copy_inertia(source: mujoco.MjModel, target: mujoco.MjModel) -> None:
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        getattr(target, name)[:] = getattr(source, name)


def _halve_margins(model: mujoco.MjModel) -> None:
    if model.geom_gap.any() or np.ptp(model.geom_margin) > 0:
        raise D4RLTaskError(
            "MuJoCo 2.1's contact margins cannot be reproduced for a model whose geoms differ in "
            "margin or have a gap: give all geoms one margin and no gap"
        )
    model.geom_margin[:] /= 2


def _average_inverse_weights(model: mujoco.MjModel) -> None:
    sliding = np.flatnonzero(model.body_simple == ONLY_SLIDES)
    axes = model.body_dofnum[sliding]
    model.body_invweight0[sliding, 0] = axes / (3 * model.body_mass[sliding])


def verification_warning(version: tuple[int, ...]) -> str | None:
    """The known differences of a MuJoCo version from 2.1.0, or None if it agrees.

    Args:
        version: as from `mujoco_version`.
    """
    name = ".".join(str(part) for part in version)
    advice = "; install the version pinned in requirements.txt for D4RL's physics"
    if version < OLDEST_VERIFIED:
        return f"MuJoCo {name} is older than any that was compared with D4RL's physics{advice}"
    if version >= FREE_JOINT_RK4_CHANGED:
        return (
            f"MuJoCo {name} integrates a free joint differently: ant and antmaze differ from "
            "D4RL's physics by up to 0.2 a step; halfcheetah, hopper and walker2d are not affected"
            f"{advice}"
        )
    if version >= CONTACTS_CHANGED:
        return (
            f"MuJoCo {name}: about one step in a thousand of halfcheetah and of antmaze differs "
            f"from D4RL's physics, by up to 1e-6; no other robot is known to be affected{advice}"
        )
    if version >= DEPTH_IN_BOXES_CHANGED:
        return (
            f"MuJoCo {name}: about two steps in a thousand of antmaze, in which a leg gets deep "
            f"into a wall, differ from D4RL's physics; no other robot is affected{advice}"
        )
    return None


@cache
def warn_if_unverified() -> None:
    """Warn, once in a process, if this MuJoCo version does not agree with 2.1.0."""
    message = verification_warning(mujoco_version())
    if message:
        warnings.warn(message, stacklevel=2)
