"""D4RL's environments in gymnasium's API: one, or many in lockstep."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from d4rl_tasks.datasets import Dataset, load_dataset
from d4rl_tasks.episodes import check_count
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.physics import warn_if_unverified
from d4rl_tasks.rendering import choose_renderer
from d4rl_tasks.robots import Robot, make_robot, observation_space
from d4rl_tasks.tasks import Task, get_task, normalized_score, task_names
from d4rl_tasks.viewers import Renderer


class D4RLEnv(MujocoEnv):
    """One D4RL environment: `d4rl_tasks.make(name)` or `gymnasium.make("d4rl/" + name)`.

    `model`, `data` and `set_state(qpos, qvel)` are MujocoEnv's; antmaze and maze2d have
    `target_goal`, (2,) float64, x and y in metres.

    Args:
        name: a task's name.
        goal_seed: antmaze v0 and v1 draw their one goal when the environment is made, from this
            seed; v2 draws one at every reset, from the seed of `reset`. In maze2d the
            maze fixes the goal.
        render_mode, width, height, camera_id, camera_name: as MujocoEnv's.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}

    def __init__(self, name: str, goal_seed: int = 0, **kwargs):
        warn_if_unverified()
        self.task = get_task(name)
        self.robot = make_robot(self.task)
        self.target_goal = self.robot.draw_goal(np.random.default_rng(goal_seed))
        if kwargs.get("render_mode") not in (None, "human"):
            choose_renderer()  # also with a screen: DISPLAY may name one that is gone
        if kwargs.get("camera_id") is None and not self.task.maze:
            # With gymnasium's free camera, which stands still, the robot walks out of the picture.
            kwargs["camera_name"] = kwargs.get("camera_name") or "track"
        super().__init__(
            self.robot.xml,
            self.robot.frame_skip,
            observation_space=None,
            default_camera_config=self.robot.camera,
            **kwargs,
        )
        self.metadata = self.metadata | {"render_fps": round(1 / self.dt)}
        drawing = ("max_geom", "camera_id", "camera_name", "visual_options")
        self.mujoco_renderer = Renderer(
            *(self.model, self.data, self.robot.camera, self.width, self.height),
            **{name: kwargs[name] for name in drawing if name in kwargs},
        )
        self.observation_space = observation_space(self.robot, self.model)

    def get_dataset(self, source: str = "auto") -> Dataset:
        """The task's dataset, as `d4rl_tasks.load_dataset` reads it."""
        return load_dataset(self.task.name, source)

    def get_normalized_score(self, returns: float | np.ndarray) -> np.ndarray:
        """D4RL's normalised score of undiscounted returns, as `d4rl_tasks.normalized_score`."""
        return normalized_score(self.task.name, returns)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = self.robot.model()
        fit_pictures(model, self.width, self.height)
        return model, mujoco.MjData(model)

    def _set_action_space(self) -> Box:
        self.action_space = Box(-1.0, 1.0, (self.model.nu,), np.float32)
        return self.action_space

    def reset_model(self) -> np.ndarray:
        if self.task.goal_resampled_each_episode:
            self.target_goal = self.robot.draw_goal(self.np_random)
        self.set_state(*self.robot.initial_state(self.model, self.np_random))
        return self.robot.observation(self.data.qpos, self.data.qvel)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
        """Apply an action, (A,), clipped to [-1, 1], for one environment step."""
        action = clipped(action)
        if action.shape != (self.model.nu,):
            raise ValueError(f"action has shape {action.shape}, the robot takes ({self.model.nu},)")
        before = self.robot.position(self.data)
        self.robot.simulate(self.model, self.data, action * self.robot.action_scale)
        velocity = (self.robot.position(self.data) - before) / self.dt
        qpos, qvel = self.data.qpos, self.data.qvel
        reward = self.robot.reward(qpos, np.asarray(velocity), action, self.target_goal)
        terminated = self.robot.terminated(qpos, qvel, self.target_goal)
        if self.render_mode == "human":
            self.render()
        return self.robot.observation(qpos, qvel), float(reward), bool(terminated), False, {}


class LockstepVectorEnv(VectorEnv):
    """Many episodes of one task in lockstep, stepped by all cores; made for evaluation.

    A finished episode stands still (its reward is 0, its last observation stays) until `reset`.
    An episode depends on its own seed alone, not on how many run beside it. It equals that of
    `D4RLEnv` with the same seed, bit for bit.

    Args:
        name: a task's name.
        num_envs: how many episodes.
        goal_seed: as `D4RLEnv`'s; all episodes of antmaze v0 and v1 share that goal.
        threads: how many step the episodes; None means one for each core.
        render_mode: None or "rgb_array".
        width, height: of a picture, in pixels.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}

    def __init__(
        self,
        name: str,
        num_envs: int,
        goal_seed: int = 0,
        threads: int | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ):
        warn_if_unverified()
        if render_mode not in (None, "rgb_array"):
            raise D4RLTaskError(f"render_mode is {render_mode!r}: choose rgb_array or None")
        if render_mode:
            choose_renderer()
        self.task = get_task(name)
        self.robot = make_robot(self.task)
        self.model = self.robot.model()
        self.num_envs = num_envs
        self.single_observation_space = observation_space(self.robot, self.model)
        self.single_action_space = Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.datas = [mujoco.MjData(self.model) for _ in range(num_envs)]
        self.target_goals = fixed_goals(self.robot, num_envs, goal_seed)
        self.qpos = np.zeros((num_envs, self.model.nq))
        self.qvel = np.zeros((num_envs, self.model.nv))
        self._position = np.zeros(num_envs)
        self._elapsed = np.zeros(num_envs, dtype=int)
        self._terminated = np.zeros(num_envs, dtype=bool)
        self._truncated = np.zeros(num_envs, dtype=bool)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._threads = min(num_envs, threads or available_cores())
        self._is_reset = False
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": round(1 / self._seconds_per_step())}
        self._picture = width, height
        self._renderers: list[Renderer] = []
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0

    @property
    def active(self) -> np.ndarray:
        """(num_envs,) bool: the episodes that still run."""
        return ~(self._terminated | self._truncated)

    def scores(self, returns: np.ndarray) -> np.ndarray:
        """D4RL's normalised scores of episodes, (num_envs,), from their undiscounted returns."""
        return self.task.normalized_score(returns)

    def __getstate__(self) -> dict[str, Any]:
        """All except threads and GL contexts: copies and other processes make their own."""
        return vars(self) | {"_pool": None, "_renderers": []}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        """Reset episodes.

        Args:
            seed: one for each episode; an integer s means s, s + 1, ...
            options: `{"reset_mask": (num_envs,) bool}` resets only those.

        Returns:
            observations (num_envs, observation size) float64, and an empty dict.
        """
        mask = self._checked_mask(options or {})
        for index, one in enumerate(_seeds(seed, self.num_envs)):
            if mask[index]:
                self._reset_one(index, one)
        self._elapsed[mask] = 0
        self._terminated[mask] = False
        self._truncated[mask] = False
        self._is_reset = True
        return self.observations(), {}

    def _checked_mask(self, options: dict) -> np.ndarray:
        mask = options.get("reset_mask", np.ones(self.num_envs, dtype=bool))
        if not (isinstance(mask, np.ndarray) and mask.dtype == bool):
            raise TypeError("options['reset_mask'] must be a NumPy array of bool")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have the shape ({self.num_envs},) and a True in it"
            )
        if not (self._is_reset or mask.all()):
            raise ResetNeeded("the first reset must reset all episodes")
        return mask

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Pictures of all episodes, (height, width, 3) uint8 each; None without a render mode."""
        if self.render_mode is None:
            return None
        if not self._renderers:
            fit_pictures(self.model, *self._picture)
            camera: dict[str, Any] = {} if self.task.maze else {"camera_name": "track"}
            self._renderers = [
                Renderer(self.model, data, self.robot.camera, *self._picture, **camera)
                for data in self.datas
            ]
        return tuple(renderer.render("rgb_array") for renderer in self._renderers)

    def _seconds_per_step(self) -> float:
        return self.model.opt.timestep * self.robot.frame_skip

    def observations(self) -> np.ndarray:
        """(num_envs, observation size) float64 of the current states."""
        return self.robot.observation(self.qpos, self.qvel)

    def _reset_one(self, index: int, seed: int | None) -> None:
        if seed is not None:
            self._rngs[index] = np.random.default_rng(seed)
        if self.task.goal_resampled_each_episode and self.target_goals is not None:
            self.target_goals[index] = self.robot.draw_goal(self._rngs[index])
        self.set_state(index, *self.robot.initial_state(self.model, self._rngs[index]))

    def set_state(self, index: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put one episode into a state: (nq,) and (nv,) float64."""
        data = self.datas[index]
        mujoco.mj_resetData(self.model, data)
        data.qpos[:] = self.qpos[index] = qpos
        data.qvel[:] = self.qvel[index] = qvel
        mujoco.mj_forward(self.model, data)
        self._position[index] = self.robot.position(data)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Apply actions, (num_envs, A), clipped to [-1, 1], for one environment step.

        Returns:
            observations (num_envs, observation size) float64, rewards (num_envs,) float64,
            terminated and truncated (num_envs,) bool, each True only at the step that ended an
            episode, and an empty dict.

        Raises:
            ResetNeeded: there was no reset yet.
            ValueError: an action is NaN, or the actions have another shape.
        """
        if not self._is_reset:
            raise ResetNeeded("call reset before the first step")
        actions = clipped(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(
                f"the actions have the shape {actions.shape}, not {self.action_space.shape}"
            )
        running = self.active
        before = self._position.copy()
        self._simulate(np.flatnonzero(running), actions * self.robot.action_scale)
        velocity = (self._position - before) / self._seconds_per_step()
        reward = self.robot.reward(self.qpos, velocity, actions, self.target_goals)
        self._elapsed += running
        terminated = running & self.robot.terminated(self.qpos, self.qvel, self.target_goals)
        truncated = running & (self._elapsed >= self.task.max_episode_steps)
        self._terminated |= terminated
        self._truncated |= truncated
        return self.observations(), np.where(running, reward, 0.0), terminated, truncated, {}

    def _simulate(self, indices: np.ndarray, controls: np.ndarray) -> None:
        turns = itertools.count()  # next() of it is atomic

        def work() -> None:
            while (turn := next(turns)) < len(indices):
                index = indices[turn]
                data = self.datas[index]
                self.robot.simulate(self.model, data, controls[index])
                self.qpos[index] = data.qpos
                self.qvel[index] = data.qvel
                self._position[index] = self.robot.position(data)

        # mj_step releases the interpreter's lock, so threads are enough.
        pool = self._threads_of_this_process()
        others = [pool.submit(work) for _ in range(min(self._threads, len(indices)) - 1)]
        work()
        for other in others:
            other.result()

    def _threads_of_this_process(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool_process != os.getpid():  # a fork has no threads
            self._pool = ThreadPoolExecutor(self._threads)
            self._pool_process = os.getpid()
        return self._pool

    def close_extras(self, **kwargs) -> None:
        """Stop the threads and free the GL contexts."""
        for renderer in self._renderers:
            renderer.close()
        self._renderers = []
        if self._pool is not None and self._pool_process == os.getpid():
            self._pool.shutdown()


def fit_pictures(model: mujoco.MjModel, width: int, height: int) -> None:
    """Let MuJoCo's buffers hold pictures of this size."""
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)


def clipped(actions: np.ndarray) -> np.ndarray:
    """Actions, (..., A), as float64 in [-1, 1]; ValueError if one is NaN."""
    actions = np.clip(np.asarray(actions, dtype=np.float64), -1, 1)
    if np.isnan(actions).any():
        raise ValueError("an action is NaN: check the policy")
    return actions


def fixed_goals(robot: Robot, count: int, goal_seed: int) -> np.ndarray | None:
    """(count, 2) the same goal for every episode; None for a robot without a maze."""
    goal = robot.draw_goal(np.random.default_rng(goal_seed))
    return None if goal is None else np.tile(goal, (count, 1))


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _seeds(seed: int | list[int | None] | None, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + index for index in range(count)]
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} episodes")
    return list(seed)


def make(name: str, **kwargs) -> gymnasium.Env:
    """Make a task's environment, with its time limit: `make("walker2d-expert-v2")`.

    Args:
        name: a task's name; "d4rl/" in front of it is allowed.
        kwargs: as `D4RLEnv`'s (`goal_seed`, `render_mode`, ...).

    Raises:
        D4RLTaskError: the task is unknown.
    """
    task = get_task(name)
    # The spec, not its id: for an id that ends in -v0 gymnasium would advise to "upgrade" to -v2.
    return gymnasium.make(gymnasium.spec(f"d4rl/{task.name}"), **kwargs)


def make_vec(name: str, num_envs: int, **kwargs) -> LockstepVectorEnv:
    """Make `num_envs` episodes of a task in lockstep; `kwargs` as `LockstepVectorEnv`'s."""
    check_count(num_envs)
    return LockstepVectorEnv(name, num_envs, **kwargs)


def register_tasks() -> None:
    """Put every task into gymnasium's registry, in the namespace d4rl, if it is not there yet."""
    for name in task_names():
        if f"d4rl/{name}" not in gymnasium.registry:
            _register(get_task(name))


def _register(task: Task) -> None:
    # gymnasium's own checks of every step cost as much as the physics; check_env makes them once.
    gymnasium.register(
        id=f"d4rl/{task.name}",
        entry_point=f"{__name__}:{D4RLEnv.__name__}",  # text, so that a spec can be written down
        max_episode_steps=task.max_episode_steps,
        disable_env_checker=True,
        kwargs={"name": task.name},
    )
