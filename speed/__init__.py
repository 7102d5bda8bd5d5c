"""Faster training and nothing else: without it every result is the same to rounding."""
