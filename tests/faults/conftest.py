"""What the tests of faults share: how processes are forked, a run without faults, and a seed."""

import multiprocessing
import os
import secrets
from pathlib import Path

import pytest
from attempts import FORKS, Attempt, assert_whole

HERE = Path(__file__).parent
SEED = pytest.StashKey[int]()


@pytest.fixture(scope="session", autouse=True)
def server_of_forks():
    """Starts the process that all others are forks of, so that their times are their own."""
    environment = {
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}",
        # With more threads than one, a fork of it could wait for ever for what another one holds.
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
    """Kills what a failed test left; a stopped process would never end."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def seed(request):
    """The seed of the random moments: FAULTS_SEED, or another each time; it is printed."""
    return request.config.stash.setdefault(
        SEED, int(os.environ.get("FAULTS_SEED", secrets.randbelow(10**6)))
    )


def pytest_terminal_summary(terminalreporter, config):
    """Prints the seed, where there was one."""
    if SEED in config.stash:
        terminalreporter.write_line(f"FAULTS_SEED={config.stash[SEED]} repeats the random moments")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The `Attempt` that had no fault, ended: every run that recovers from one must equal its."""
    attempt = Attempt(tmp_path_factory.mktemp("uninterrupted") / "run", "--checkpoint-every", "2")
    assert attempt.wait() == 0, attempt.errors
    assert_whole(attempt.folder)
    return attempt
