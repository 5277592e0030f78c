"""What the kernel benchmark says of itself in place of a measurement, for those who read its file.

This module loads nothing, so that a reader need not load PyTorch.
"""

OVER = "the time was over"
"""Fault of the pair that was being measured then; it is not to blame."""
ITSELF = "the benchmark itself"
"""In place of a work: no pair could be begun."""
SPOILED = "spoiled the device for its process"
