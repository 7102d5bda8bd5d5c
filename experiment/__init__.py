"""What a run keeps on the disk, and how it stops and goes on."""

from experiment.checkpoints import Checkpoints
from experiment.errors import DivergedError, RunError, StoppedError
from experiment.losses import LossLog
from experiment.results import Results
from experiment.signals import StopSignals

__all__ = [
    "Checkpoints",
    "DivergedError",
    "LossLog",
    "Results",
    "RunError",
    "StopSignals",
    "StoppedError",
]
