"""D4RL's ant mazes: cells, walls, goals and shortest paths (D4RL, `locomotion/maze_env.py`)."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

LAYOUTS = {
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


@dataclass(frozen=True)
class Maze:
    """A maze of square cells; "1" is wall, "R" the start at the origin, "G" the evaluation's goal.

    Cell (row i, column j) has its centre at x = 4 (j - j_R), y = 4 (i - i_R), in metres.
    """

    rows: tuple[str, ...]
    cell_size: ClassVar[float] = 4.0
    wall_half_height: ClassVar[float] = 1.0

    @cached_property
    def _symbols(self) -> np.ndarray:
        return np.array([list(row) for row in self.rows])

    def cell_of(self, symbol: str) -> np.ndarray:
        """(2,) row and column of "R" or "G"."""
        return np.argwhere(self._symbols == symbol)[0]

    def wall_cells(self) -> np.ndarray:
        """(n, 2) rows and columns of the walls."""
        return np.argwhere(self._symbols == "1")

    def free_cells(self) -> np.ndarray:
        """(n, 2) rows and columns of the cells an ant can stand in."""
        return np.argwhere(self._symbols != "1")

    def cell_centers(self, cells: np.ndarray) -> np.ndarray:
        """(..., 2) rows and columns -> (..., 2) x and y in metres."""
        return self.cell_size * (np.asarray(cells) - self.cell_of("R"))[..., ::-1].astype(float)

    def cells_at(self, positions: np.ndarray) -> np.ndarray:
        """(..., 2) x and y in metres -> (..., 2) rows and columns of the cells they lie in."""
        offset = np.rint(np.asarray(positions)[..., ::-1] / self.cell_size).astype(int)
        cells = offset + self.cell_of("R")
        return np.clip(cells, 0, np.array(self._symbols.shape) - 1)

    def sample_goal(self, rng: np.random.Generator, cell: np.ndarray | None = None) -> np.ndarray:
        """Draw a goal in a cell (default G): its centre plus U(0, 1) + U(0, 0.5), floored at 0.

        Returns:
            (2,) x and y in metres.
        """
        center = self.cell_centers(self.cell_of("G") if cell is None else cell)
        return np.maximum(center + rng.uniform(0, 1.0, 2) + rng.uniform(0, 0.5, 2), 0.0)

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


def get_maze(name: str) -> Maze:
    """The maze "umaze", "medium" or "large"."""
    return Maze(LAYOUTS[name])
