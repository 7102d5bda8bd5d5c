"""Settings of all tests."""

import torch

# The networks of the tests are too small to be worth several threads.
torch.set_num_threads(1)
