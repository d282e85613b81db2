"""One of several processes: how it is told so, and what it says where that is wrong."""

import os
import socket

import pytest

from training import multihost
from training.cli import InputError


@pytest.fixture
def told(monkeypatch):
    """Returns a function that sets what a process is told."""

    def tell(address="127.0.0.1:4000", processes="2", process="1"):
        values = (address, processes, process)
        for name, value in zip(multihost.NAMES, values, strict=True):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return tell


def test_a_process_knows_its_place(told):
    told(None, None, None)
    assert not multihost.launched()
    told("10.0.0.1:4000,10.0.0.2:4000", "2", "1")
    assert multihost.launched()
    assert multihost._identity() == ("10.0.0.1:4000", 1, 2)


@pytest.mark.parametrize(
    ("address", "processes", "process"),
    [
        (None, "2", "0"),
        ("127.0.0.1", "2", "0"),
        ("127.0.0.1:port", "2", "0"),
        ("127.0.0.1:70000", "2", "0"),
        ("127.0.0.1:4000", "2", None),
        ("127.0.0.1:4000", "2", "2"),
        ("127.0.0.1:4000", "2", "-1"),
    ],
)
def test_a_wrong_place_is_one_line(told, address, processes, process):
    told(address, processes, process)
    with pytest.raises(InputError, match="expected host:port, a number of processes"):
        multihost._identity()


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "tensorflow")
    with pytest.raises(InputError, match="KERAS_BACKEND is tensorflow"):
        multihost.choose_backend()


def test_an_absent_first_process_is_one_line(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(multihost, "JOIN_TIMEOUT", 0.1)
    with pytest.raises(InputError, match=f"No first process at {address} within"):
        multihost._wait_for(address)


def test_a_first_process_that_listens_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        multihost._wait_for(f"127.0.0.1:{server.getsockname()[1]}")


def test_one_process_agrees_with_itself(told):
    told(None, None, None)
    multihost.agree({"seed": 0})
