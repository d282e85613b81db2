"""The run folder: its files, its SavedModel, its scores and plots."""
