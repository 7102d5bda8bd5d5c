"""Planners that steer robots through mazes, for the synthetic datasets of antmaze and maze2d."""

import numpy as np

from d4rl_tasks.environments import LockstepVectorEnv
from d4rl_tasks.mazes import AntMazeGrid, Maze
from d4rl_tasks.robots import AntMaze, PointMaze
from d4rl_tasks.synthetic.behaviours import Behaviour
from d4rl_tasks.tasks import Task

ACTION_NOISE = 0.2
# Final qpos and qvel of the episodes, (episodes, nq) and (episodes, nv); None at the start.
States = tuple[np.ndarray, np.ndarray] | None


class Navigator:
    """Steers every episode along the shortest path of cells to its goal.

    The waypoint is the centre of the next cell on the path, and the goal itself in the last one.
    The behaviour acts by its mean, with N(0, 0.2^2) noise on each action, as D4RL's controller did.

    umaze starts at R and goes to the evaluation's goal; umaze-diverse and *-diverse start and go
    anywhere; *-play starts anywhere and goes to G or a corner of the maze. Reward and terminal are
    the evaluation environment's: an episode that arrives at another goal is cut, not terminal.

    Args:
        task: an antmaze task.
        environment: its episodes.
        behaviour: an ant that walks in a given direction.
        rngs: one for each episode.
    """

    def __init__(
        self,
        task: Task,
        environment: LockstepVectorEnv,
        behaviour: Behaviour,
        rngs: list[np.random.Generator],
    ):
        if not isinstance(environment.robot, AntMaze):
            raise TypeError(f"{task.name} has no maze to plan in")
        self._maze = environment.robot.maze
        self._goal_radius = environment.robot.goal_radius
        self._behaviour = behaviour
        self._rngs = rngs
        self._goal_cells = goal_cells(self._maze, task.quality)
        self._start_cells = (
            self._maze.free_cells() if task.quality else self._maze.cell_of("R")[None]
        )
        self._next_cells = {tuple(cell): next_cells(self._maze, cell) for cell in self._goal_cells}
        self._goal_of = np.zeros((environment.num_envs, 2), dtype=int)
        self._goals = np.zeros((environment.num_envs, 2))

    def start(self, environment: LockstepVectorEnv, indices: np.ndarray, ended_at: States) -> None:
        """Give each of these episodes, just reset, a start cell and a goal."""
        for index in indices:
            rng = self._rngs[index]
            goal_cell = rng.choice(self._goal_cells)
            starts = self._start_cells[(self._start_cells != goal_cell).any(axis=1)]
            qpos, qvel = environment.qpos[index].copy(), environment.qvel[index].copy()
            qpos[:2] += self._maze.cell_centers(rng.choice(starts))
            environment.set_state(index, qpos, qvel)
            self._goal_of[index] = goal_cell
            self._goals[index] = self._goal_in(environment, index, goal_cell)

    def _goal_in(self, environment: LockstepVectorEnv, index: int, cell: np.ndarray) -> np.ndarray:
        if (cell == self._maze.cell_of("G")).all():
            return np.asarray(environment.target_goals)[index]
        return self._maze.sample_goal(self._rngs[index], cell)

    def act(
        self, environment: LockstepVectorEnv, observations: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(episodes, 29) -> actions (episodes, 8) float32, and the goals to record."""
        heading = self._waypoints(environment.qpos[:, :2]) - environment.qpos[:, :2]
        heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-6)
        actions = self._behaviour.mean_action(
            np.concatenate([observations[:, 2:], heading], axis=1)
        )
        noise = np.stack([rng.standard_normal(actions.shape[1]) for rng in self._rngs])
        actions = np.clip(actions + ACTION_NOISE * noise, -1, 1).astype(np.float32)
        return actions, {"infos/goal": self._goals}

    def _waypoints(self, positions: np.ndarray) -> np.ndarray:
        waypoints = np.empty_like(positions)
        for index, cell in enumerate(self._maze.cells_at(positions)):
            goal_cell = tuple(self._goal_of[index])
            if tuple(cell) == goal_cell:
                waypoints[index] = self._goals[index]
            else:
                following = self._next_cells[goal_cell][tuple(cell)]
                waypoints[index] = self._maze.cell_centers(following)
        return waypoints

    def arrived(self, environment: LockstepVectorEnv) -> np.ndarray:
        """(episodes,) bool: at the goal the planner gave, whatever the evaluation's goal is."""
        distance = np.linalg.norm(environment.qpos[:, :2] - self._goals, axis=1)
        return distance <= self._goal_radius


class WaypointController:
    """Drives each ball from goal to goal along the shortest path of cells.

    An action is 10 (waypoint - position) - velocity, clipped, as in D4RL's controller
    (`pointmaze/waypoint_controller.py`). Waypoints are the path's cells, each shifted by
    -U(0, 0.2) along both axes, then the goal. Goals are drawn from the other free cells.
    A ball gets a new goal when it arrives, or after the task's time limit.

    Args:
        environment: of a maze2d task.
        rngs: one for each ball.
    """

    proportional_gain = 10.0
    reached = 0.1  # metres

    def __init__(self, environment: LockstepVectorEnv, rngs: list[np.random.Generator]):
        if not isinstance(environment.robot, PointMaze):
            raise TypeError(f"{environment.task.name} is not maze2d")
        self._maze = environment.robot.maze
        self._rngs = rngs
        self._next_cells = {
            tuple(cell): next_cells(self._maze, cell) for cell in self._maze.free_cells()
        }
        self._cells, self._goal_cells = np.zeros((2, environment.num_envs, 2), dtype=int)
        self._waypoints = np.zeros((environment.num_envs, 2))

    def start(self, environment: LockstepVectorEnv, indices: np.ndarray, ended_at: States) -> None:
        """Give each of these balls a new goal; after the first call it keeps its state."""
        for index in indices:
            if ended_at is not None:
                environment.set_state(index, *(state[index] for state in ended_at))
            self._cells[index] = cell = self._maze.cells_at(environment.qpos[index])
            others = self._maze.free_cells()
            others = others[(others != cell).any(axis=1)]
            self._goal_cells[index] = self._rngs[index].choice(others)
            self._advance(index)

    def _advance(self, index: int) -> None:
        """Take the next cell on the way to the goal as the waypoint."""
        goal = self._goal_cells[index]
        self._cells[index] = cell = self._next_cells[tuple(goal)][tuple(self._cells[index])]
        self._waypoints[index] = self._maze.cell_centers(cell)
        if (cell != goal).any():
            self._waypoints[index] -= self._rngs[index].uniform(0, 0.2, 2)

    def act(
        self, environment: LockstepVectorEnv, observations: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(balls, 4) -> actions (balls, 2) float32, and the goals to record."""
        for index in np.flatnonzero(self._is_at(environment, self._waypoints)):
            self._advance(int(index))
        way = self._waypoints - environment.qpos
        actions = np.clip(self.proportional_gain * way - environment.qvel, -1, 1)
        return actions.astype(np.float32), {"infos/goal": self._goals()}

    def arrived(self, environment: LockstepVectorEnv) -> np.ndarray:
        """(balls,) bool: at the goal the controller gave, whatever the evaluation's goal is."""
        return self._is_at(environment, self._goals())

    def _goals(self) -> np.ndarray:
        return self._maze.cell_centers(self._goal_cells)

    def _is_at(self, environment: LockstepVectorEnv, points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(environment.qpos - points, axis=1) < self.reached


def goal_cells(maze: AntMazeGrid, quality: str) -> np.ndarray:
    """(n, 2) cells the episodes of a dataset go to: G; any ("diverse"); G and corners ("play")."""
    goal, start = maze.cell_of("G"), maze.cell_of("R")
    if quality == "diverse":
        return maze.free_cells()
    if quality == "":
        return goal[None]
    free = maze.free_cells()
    is_corner = ((free == free.min(axis=0)) | (free == free.max(axis=0))).all(axis=1)
    is_start_or_goal = (free == start).all(axis=1) | (free == goal).all(axis=1)
    return np.concatenate([goal[None], free[is_corner & ~is_start_or_goal]])


def next_cells(maze: Maze, goal: np.ndarray) -> np.ndarray:
    """For every cell its neighbour nearest to the goal, (rows, columns, 2).

    Walls have one too: a torso can lean over a wall. A wall between walls points to itself.
    """
    distances = maze.distances_to(goal)
    table = np.indices(distances.shape).transpose(1, 2, 0).copy()
    for cell in np.ndindex(distances.shape):
        around = maze.neighbours(cell)
        if around:
            table[cell] = min(around, key=lambda neighbour: distances[neighbour])
    return table
