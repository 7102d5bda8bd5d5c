"""Settings of all tests."""

import importlib.util

import torch

# The networks of the tests are too small to be worth several threads.
torch.set_num_threads(1)

# These run only where gym, d4rl and mujoco-py are: see original_stack/build.
collect_ignore = [] if importlib.util.find_spec("mujoco_py") else ["original_stack"]
