"""What all tests have in common."""

import training.cli  # noqa: F401 - sets TensorFlow's environment, which it reads on its import
