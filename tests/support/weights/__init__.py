"""Checkpoints, and the rules of the golden ones."""
