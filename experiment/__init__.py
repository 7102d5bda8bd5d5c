"""One run: its options and settings, its models and checkpoints, its evaluation, its files."""
