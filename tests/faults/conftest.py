"""Fixtures of the fault tests: the fork server, a run without faults, the random seed."""

import multiprocessing
import os
import secrets
from pathlib import Path

import pytest

from tests.faults.attempts import FORKS, Attempt, assert_whole

ROOT = Path(__file__).parents[2]
SEED = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def server_of_forks():
    """Starts the process that all others are forked from."""
    environment = {
        "PYTHONPATH": str(ROOT),
        # With several threads, a fork could wait forever for a lock that another thread held.
        "OPENBLAS_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        first = FORKS.Process(target=int)
        first.start()
        first.join()
        yield


@pytest.fixture(autouse=True)
def none_is_left():
    """Kills the processes that a failed test left."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def seed(request):
    """The seed of the random moments: FAULTS_SEED, or a new one, which is printed."""
    return request.config.stash.setdefault(
        SEED, int(os.environ.get("FAULTS_SEED", secrets.randbelow(10**6)))
    )


def pytest_terminal_summary(terminalreporter, config):
    """Prints the seed if it was used."""
    if SEED in config.stash:
        terminalreporter.write_line(f"FAULTS_SEED={config.stash[SEED]} repeats the random moments")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The ended `Attempt` without a fault. Every run that recovers must equal its run."""
    attempt = Attempt(tmp_path_factory.mktemp("uninterrupted") / "run", "--checkpoint-every", "2")
    assert attempt.wait() == 0, attempt.errors
    assert_whole(attempt.folder)
    return attempt
