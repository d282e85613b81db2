"""The command line of a training of seconds, on the synthetic set."""

ARGUMENTS = ["--arch", "r18w8_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "64", "--steps-per-epoch", "4", "--epochs", "3", "--strategy", "none"]
