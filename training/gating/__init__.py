"""What the gates of a trained network do."""
