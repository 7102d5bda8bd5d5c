"""The robots: their observations, rewards and terminations.

These are gym's `-v2` robots as D4RL used them (gym 0.23 with mujoco-py), written once for a single
environment and for many in lockstep: every function takes arrays whose last axis is the state's.
The models are gymnasium's MJCF files, and `point_maze.xml`, compiled to move as in MuJoCo 2.1
(`physics.py`).
"""

from pathlib import Path
from typing import Any

import gymnasium.envs.mujoco
import mujoco
import numpy as np
from gymnasium.spaces import Box

from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.mazes import ANT_LAYOUTS, POINT_LAYOUTS, AntMazeGrid, PointMazeGrid
from d4rl_tasks.physics import compile_as_mujoco_2_1
from d4rl_tasks.tasks import Task

ASSETS = Path(gymnasium.envs.mujoco.__file__).parent / "assets"


class Robot:
    """Base class: x-velocity is rewarded, actions are torques in [-1, 1].

    Attributes:
        xml: path of the MJCF file, or its name among gymnasium's.
        frame_skip: simulator steps per environment step.
        camera: default free camera for rendering.
        shows_goal: whether the model itself draws the goal.
    """

    xml: str
    frame_skip: int
    control_cost: float
    healthy_reward: float
    reset_noise: float
    action_scale = 1.0
    shows_goal = False
    camera: dict[str, Any] = {
        "trackbodyid": 1,
        "distance": 4.0,
        "lookat": (0.0, 0.0, 1.15),
        "elevation": -20.0,
    }

    def spec(self) -> mujoco.MjSpec:
        """The robot's model as published, before the physics of 2.1 is restored."""
        return mujoco.MjSpec.from_file(str(ASSETS / self.xml))

    def model(self) -> mujoco.MjModel:
        """The compiled model, moving as in MuJoCo 2.1."""
        return compile_as_mujoco_2_1(self.spec())

    def initial_state(
        self, model: mujoco.MjModel, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a start: qpos0 and zero velocity, each with noise. Returns (nq,), (nv,) float64."""
        qpos = model.qpos0 + rng.uniform(-self.reset_noise, self.reset_noise, model.nq)
        return qpos, self.initial_velocity(model.nv, rng)

    def initial_velocity(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a start's velocity, (size,)."""
        return rng.uniform(-self.reset_noise, self.reset_noise, size)

    def draw_goal(self, rng: np.random.Generator) -> np.ndarray | None:
        """Draw the goal of evaluations, (2,) x and y in metres; None without a maze."""
        return None

    def simulate(self, model: mujoco.MjModel, data: mujoco.MjData, control: np.ndarray) -> None:
        """Move by one environment step under the actuators' inputs, (A,): scaled actions."""
        data.ctrl[:] = control
        mujoco.mj_step(model, data, nstep=self.frame_skip)

    def position(self, data: mujoco.MjData) -> float:
        """The x position whose change is rewarded, in metres."""
        return data.qpos[0]

    def observation(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """(..., nq), (..., nv) float64 -> (..., observation size) float64."""
        return np.concatenate([qpos[..., 1:], np.clip(qvel, -10, 10)], axis=-1)

    def reward(
        self, qpos: np.ndarray, velocity: np.ndarray, action: np.ndarray, goal: np.ndarray | None
    ) -> np.ndarray:
        """Reward of a step.

        Args:
            qpos: (..., nq) after the step.
            velocity: (...) m/s, the change of `position` over the step.
            action: (..., A) as applied, in [-1, 1].
            goal: (..., 2) metres; only robots in mazes look at it.
        """
        return self.healthy_reward + velocity - self.control_cost * np.square(action).sum(-1)

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """Whether a step that led to this state ended its episode, (...) bool; here never."""
        return np.zeros(qpos.shape[:-1], dtype=bool)


class Walker2d(Robot):
    """gym's Walker2d-v2."""

    xml = "walker2d.xml"
    frame_skip = 4
    control_cost = 1e-3
    healthy_reward = 1.0
    reset_noise = 5e-3

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        height, angle = qpos[..., 1], qpos[..., 2]
        return ~((0.8 < height) & (height < 2.0) & (-1.0 < angle) & (angle < 1.0))


class Hopper(Robot):
    """gym's Hopper-v2."""

    xml = "hopper.xml"
    frame_skip = 4
    control_cost = 1e-3
    healthy_reward = 1.0
    reset_noise = 5e-3
    camera: dict[str, Any] = {
        "trackbodyid": 1,
        "distance": 3.0,
        "lookat": (0.0, 0.0, 1.15),
        "elevation": -20.0,
    }

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        height, angle = qpos[..., 1], qpos[..., 2]
        state = np.concatenate([qpos[..., 2:], qvel], axis=-1)
        return ~((np.abs(state) < 100).all(-1) & (height > 0.7) & (np.abs(angle) < 0.2))


class HalfCheetah(Robot):
    """gym's HalfCheetah-v2. Its episodes end only by the time limit."""

    xml = "half_cheetah.xml"
    frame_skip = 5
    control_cost = 0.1
    healthy_reward = 0.0
    reset_noise = 0.1
    camera: dict[str, Any] = {"trackbodyid": 1, "distance": 4.0}

    def initial_velocity(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return self.reset_noise * rng.standard_normal(size)

    def observation(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return np.concatenate([qpos[..., 1:], qvel], axis=-1)


class Ant(Robot):
    """gym's Ant-v2. The 84 contact forces it observes were always zero on D4RL's MuJoCo."""

    xml = "ant.xml"
    frame_skip = 5
    control_cost = 0.5
    healthy_reward = 1.0
    reset_noise = 0.1
    contact_forces = 84
    camera: dict[str, Any] = {"trackbodyid": 1, "distance": 4.0}

    def initial_velocity(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return self.reset_noise * rng.standard_normal(size)

    def position(self, data: mujoco.MjData) -> float:
        # The body's frame as the last stage of RK4 left it, not qpos: gym reads the torso there.
        return data.xpos[1, 0]

    def observation(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        forces = np.zeros((*qpos.shape[:-1], self.contact_forces))
        return np.concatenate([qpos[..., 2:], qvel, forces], axis=-1)

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        height = qpos[..., 2]
        finite = np.isfinite(qpos).all(-1) & np.isfinite(qvel).all(-1)
        return ~(finite & (0.2 <= height) & (height <= 1.0))


class InMaze:
    """The common part of the robots in mazes.

    Attributes:
        goal_radius: metres; within it the goal is reached.
    """

    goal_radius = 0.5

    def observation(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """(..., nq), (..., nv) float64 -> (..., nq + nv) float64."""
        return np.concatenate([qpos, qvel], axis=-1)

    def distance(self, qpos: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """Metres from x and y to the goal, (...)."""
        assert goal is not None, "every maze has a goal"
        return np.linalg.norm(qpos[..., :2] - goal, axis=-1)

    def is_at_goal(self, qpos: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        """Whether x and y are within `goal_radius` of the goal, (...) bool."""
        return self.distance(qpos, goal) <= self.goal_radius


class AntMaze(InMaze, Ant):
    """D4RL's ant in a maze of walls: a slower, weaker ant that must come to a goal.

    Attributes:
        maze: the cells; the torso starts at its R.
    """

    action_scale = 30.0
    camera = {"distance": 45.0, "elevation": -80.0, "azimuth": 90.0}

    def __init__(self, maze: AntMazeGrid):
        self.maze = maze
        x, y = maze.cell_centers(maze.free_cells()).mean(axis=0)
        self.camera = self.camera | {"lookat": (x, y, 0.0)}

    def spec(self) -> mujoco.MjSpec:
        """gymnasium's ant with D4RL's contact softness, motors and time step, and the walls."""
        spec = super().spec()
        spec.option.timestep = 0.02
        for geom in spec.geoms:
            geom.solref = [0.02, 1.0]
            geom.solimp[:3] = [0.8, 0.8, 0.01]
        for motor in spec.actuators:
            motor.gear[0] = 1.0
            motor.ctrlrange = [-self.action_scale, self.action_scale]
        for x, y in self.maze.cell_centers(self.maze.wall_cells()):
            self._add_wall(spec, x, y)
        return spec

    def _add_wall(self, spec: mujoco.MjSpec, x: float, y: float) -> None:
        half = self.maze.cell_size / 2
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[x, y, self.maze.wall_half_height],
            size=[half, half, self.maze.wall_half_height],
            contype=1,
            conaffinity=1,
            solref=[0.02, 1.0],
            solimp=[0.8, 0.8, 0.01, 0.5, 2.0],
            rgba=[0.7, 0.5, 0.3, 1.0],
        )

    def draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        return self.maze.sample_goal(rng)

    def reward(
        self, qpos: np.ndarray, velocity: np.ndarray, action: np.ndarray, goal: np.ndarray | None
    ) -> np.ndarray:
        return self.is_at_goal(qpos, goal).astype(np.float64)

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray, goal: np.ndarray | None) -> np.ndarray:
        return self.is_at_goal(qpos, goal)


class PointMaze(InMaze, Robot):
    """D4RL's maze2d: a ball pushed through a maze; it is rewarded for being at the goal.

    Its episodes end only by the time limit.

    Attributes:
        maze: the cells; the ball starts in any free one.
        dense: the reward is exp(-distance to the goal), not 1 within `goal_radius`.
    """

    xml = str(Path(__file__).parent / "point_maze.xml")
    frame_skip = 1
    reset_noise = 0.1
    largest_speed = 5.0
    shows_goal = True
    origin = 1.0  # world position of the wall of cell (0, 0), along both axes, in metres

    def __init__(self, maze: PointMazeGrid, dense: bool):
        self.maze = maze
        self.dense = dense
        cells = np.array([len(maze.rows), len(maze.rows[0])])
        x, y = self.origin + (cells - 1) / 2
        self.camera = {"distance": 1.5 * cells.max(), "elevation": -90.0, "lookat": (x, y, 0.0)}

    def spec(self) -> mujoco.MjSpec:
        """The ball, its goal and the walls."""
        spec = mujoco.MjSpec.from_file(self.xml)
        goal = next(site for site in spec.sites if site.name == "goal")
        goal.pos = [*(self.maze.cell_of("G") + self.origin + self.maze.ball_offset), 0.0]
        for x, y in self.maze.wall_cells() + self.origin:
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[x, y, 0.0],
                size=[0.5, 0.5, 0.2],
                rgba=[0.7, 0.5, 0.3, 1.0],
            )
        return spec

    def draw_goal(self, rng: np.random.Generator) -> np.ndarray:
        return self.maze.cell_centers(self.maze.cell_of("G"))

    def initial_state(
        self, model: mujoco.MjModel, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        cell = self.maze.cell_centers(rng.choice(self.maze.free_cells()))
        qpos = cell + rng.uniform(-self.reset_noise, self.reset_noise, model.nq)
        return qpos, self.reset_noise * rng.standard_normal(model.nv)

    def simulate(self, model: mujoco.MjModel, data: mujoco.MjData, control: np.ndarray) -> None:
        np.clip(data.qvel, -self.largest_speed, self.largest_speed, out=data.qvel)
        # As in D4RL: the accelerations found here warm-start the step's solver.
        mujoco.mj_forward(model, data)
        super().simulate(model, data, control)

    def reward(
        self, qpos: np.ndarray, velocity: np.ndarray, action: np.ndarray, goal: np.ndarray | None
    ) -> np.ndarray:
        if self.dense:
            return np.exp(-self.distance(qpos, goal))
        return self.is_at_goal(qpos, goal).astype(np.float64)


ROBOTS = {"walker2d": Walker2d, "hopper": Hopper, "halfcheetah": HalfCheetah, "ant": Ant}


def make_robot(task: Task) -> Robot:
    """The robot of a task, in its maze if it has one."""
    if task.robot == "antmaze":
        return AntMaze(AntMazeGrid(ANT_LAYOUTS[task.maze]))
    if task.robot == "maze2d":
        return PointMaze(PointMazeGrid(POINT_LAYOUTS[task.maze]), dense=task.quality == "dense")
    if task.robot not in ROBOTS:
        robots = ", ".join((*ROBOTS, "antmaze", "maze2d"))
        raise D4RLTaskError(f"unknown robot {task.robot!r}: choose from {robots}")
    return ROBOTS[task.robot]()


def observation_space(robot: Robot, model: mujoco.MjModel) -> Box:
    """Float64 box of a robot's observations, as wide as MuJoCo lets positions and velocities grow.

    D4RL's box is unbounded, of which gymnasium's `check_env` warns.
    """
    size = robot.observation(np.zeros(model.nq), np.zeros(model.nv)).shape
    return Box(-mujoco.mjMAXVAL, mujoco.mjMAXVAL, size, np.float64)


def task_sizes(task: Task) -> tuple[int, int]:
    """How many numbers a task's observation and action have."""
    robot = make_robot(task)
    model = robot.model()
    return observation_space(robot, model).shape[0], model.nu
