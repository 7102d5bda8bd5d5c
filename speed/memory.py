"""Memory of the CPU that is reused from step to step."""

import torch


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB of freed memory, so that no step asks the kernel for it again.

    glibc returns freed memory beyond twice the largest block that it mapped and freed so far, and
    adapts to blocks of up to 32 MB (mallopt(3), M_MMAP_THRESHOLD). A block of nearly that size,
    never touched, costs nothing; other C libraries ignore it.
    """
    torch.empty(32_000_000, dtype=torch.uint8)
