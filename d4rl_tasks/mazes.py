"""D4RL's mazes: cells, walls, goals and shortest paths.

Layouts: antmaze's of D4RL's `locomotion/maze_env.py`, maze2d's of its `pointmaze/maze_model.py`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

ANT_LAYOUTS = {
    "umaze": ("11111", "1R001", "11101", "1G001", "11111"),
    "medium": (
        "11111111",
        "1R011001",
        "10010001",
        "11000111",
        "10010001",
        "10100101",
        "100010G1",
        "11111111",
    ),
    "large": (
        "111111111111",
        "1R0001000001",
        "101101010101",
        "100000010001",
        "101111011101",
        "100101000001",
        "110101010111",
        "100100010G01",
        "111111111111",
    ),
}

# The medium and the large maze are the ant's, without its start.
POINT_LAYOUTS = {
    "open": ("1111111", "1000001", "100G001", "1000001", "1111111"),
    "umaze": ("11111", "1G001", "11101", "10001", "11111"),
    "medium": tuple(row.replace("R", "0") for row in ANT_LAYOUTS["medium"]),
    "large": tuple(row.replace("R", "0") for row in ANT_LAYOUTS["large"]),
    "eval-umaze": ("11111", "100G1", "10111", "10001", "11111"),
    "eval-medium": (
        "11111111",
        "100000G1",
        "10101101",
        "10000101",
        "11100111",
        "10000001",
        "10011001",
        "11111111",
    ),
    "eval-large": (
        "111111111111",
        "100100010G01",
        "110111010101",
        "100101000001",
        "101101001101",
        "100000010001",
        "101101010111",
        "100001000001",
        "111111111111",
    ),
}


@dataclass(frozen=True)
class Maze:
    """A maze of square cells: "1" is a wall, "G" the goal of evaluations.

    Attributes:
        rows: the cells' symbols.
    """

    rows: tuple[str, ...]

    @cached_property
    def _symbols(self) -> np.ndarray:
        return np.array([list(row) for row in self.rows])

    def cell_of(self, symbol: str) -> np.ndarray:
        """(2,) row and column of the cell with a symbol."""
        return np.argwhere(self._symbols == symbol)[0]

    def wall_cells(self) -> np.ndarray:
        """(n, 2) rows and columns of the walls."""
        return np.argwhere(self._symbols == "1")

    def free_cells(self) -> np.ndarray:
        """(n, 2) rows and columns of the cells a robot can be in."""
        return np.argwhere(self._symbols != "1")

    def cell_centers(self, cells: np.ndarray) -> np.ndarray:
        """(..., 2) rows and columns -> (..., 2) x and y of the points robots go to, in metres."""
        raise NotImplementedError

    def cells_at(self, positions: np.ndarray) -> np.ndarray:
        """(..., 2) x and y in metres -> (..., 2) rows and columns of the cells they lie in."""
        raise NotImplementedError

    def distances_to(self, goal: np.ndarray) -> np.ndarray:
        """Steps between neighbouring free cells from every cell to a goal cell, by breadth first.

        Args:
            goal: (2,) row and column.

        Returns:
            (rows, columns) float64; infinity in walls.
        """
        distances = np.full(self._symbols.shape, np.inf)
        distances[tuple(goal)] = 0
        queue = [tuple(goal)]
        for cell in queue:
            for neighbour in self.neighbours(cell):
                if np.isinf(distances[neighbour]):
                    distances[neighbour] = distances[cell] + 1
                    queue.append(neighbour)
        return distances

    def neighbours(self, cell: tuple[int, int]) -> list[tuple[int, int]]:
        """Free cells that share a side with a cell."""
        i, j = (int(index) for index in cell)
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        return [(i, j) for i, j in around if self._is_free(i, j)]

    def _is_free(self, i: int, j: int) -> bool:
        rows, columns = self._symbols.shape
        return 0 <= i < rows and 0 <= j < columns and self._symbols[i, j] != "1"


class AntMazeGrid(Maze):
    """The maze of an antmaze task; "R" is the start, at the origin.

    Cell (row i, column j) has its centre at x = 4 (j - j_R), y = 4 (i - i_R), in metres.
    """

    cell_size: ClassVar[float] = 4.0
    wall_half_height: ClassVar[float] = 1.0

    def cell_centers(self, cells: np.ndarray) -> np.ndarray:
        return self.cell_size * (np.asarray(cells) - self.cell_of("R"))[..., ::-1].astype(float)

    def cells_at(self, positions: np.ndarray) -> np.ndarray:
        offset = np.rint(np.asarray(positions)[..., ::-1] / self.cell_size).astype(int)
        cells = offset + self.cell_of("R")
        return np.clip(cells, 0, np.array(self._symbols.shape) - 1)

    def sample_goal(self, rng: np.random.Generator, cell: np.ndarray | None = None) -> np.ndarray:
        """Draw a goal in a cell (default: G): its centre plus U(0, 1) + U(0, 0.5), floored at 0.

        Returns:
            (2,) x and y in metres.
        """
        center = self.cell_centers(self.cell_of("G") if cell is None else cell)
        return np.maximum(center + rng.uniform(0, 1.0, 2) + rng.uniform(0, 0.5, 2), 0.0)


class PointMazeGrid(Maze):
    """The maze of a maze2d task; the ball is in cell (row i, column j) at x = i, y = j, in metres.

    D4RL places the ball's zero at 1.2 metres and the first wall's centre at 1.0. So a cell reaches
    from i - 0.7 to i + 0.3 in the ball's coordinates, and (i, j) is not its middle.

    Attributes:
        ball_offset: metres from a cell's middle to (i, j), along both axes.
    """

    ball_offset: ClassVar[float] = 0.2

    def cell_centers(self, cells: np.ndarray) -> np.ndarray:
        return np.asarray(cells, dtype=float)

    def cells_at(self, positions: np.ndarray) -> np.ndarray:
        return np.rint(np.asarray(positions) + self.ball_offset).astype(int)
