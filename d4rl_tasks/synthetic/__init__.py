"""Synthetic datasets: behaviour policies of this project, rolled out in D4RL's physics."""
