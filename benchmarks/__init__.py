"""Side-by-side timings: commands that are run by hand, not tests."""
