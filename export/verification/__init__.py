"""Whether an exported file equals what was trained, and its release."""
