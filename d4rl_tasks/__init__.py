"""D4RL's tasks by their names: environments with D4RL's physics, datasets, reference scores.

import d4rl_tasks

environment = d4rl_tasks.make("walker2d-expert-v2")  # or gymnasium.make("d4rl/...")
dataset = d4rl_tasks.load_dataset("walker2d-expert-v2")
score = d4rl_tasks.normalized_score("walker2d-expert-v2", returns)
"""

from d4rl_tasks.rendering import import_mujoco

import_mujoco()  # before the modules below do

from d4rl_tasks.datasets import Dataset, load_dataset
from d4rl_tasks.environments import LockstepVectorEnv, make, make_vec, register_tasks
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.tasks import Task, get_task, normalized_score, task_names

__all__ = [
    "D4RLTaskError",
    "Dataset",
    "LockstepVectorEnv",
    "Task",
    "get_task",
    "load_dataset",
    "make",
    "make_vec",
    "normalized_score",
    "task_names",
]

register_tasks()
