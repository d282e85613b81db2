"""Networks and classifiers for the tests."""
