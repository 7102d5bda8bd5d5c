"""Fixtures of the policies' tests."""

import pytest
import torch


@pytest.fixture
def float64():
    """Networks, batches and noise in double precision, to agree with NumPy to the last digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
