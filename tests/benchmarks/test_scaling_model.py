"""The model of scaling, by numbers worked out by hand."""

import pytest

from benchmarks import scaling_model

NETWORK = scaling_model.Network("made", bandwidth=1e9, latency=1e-3, source="made up")
TRAINING = scaling_model.Training("made", image_seconds=0.01, gradient_bytes=10**8)


def test_a_ring():
    # 2 · 3 / 4 of 0.1 GB at 1 GB/s, and 6 hops of 1 ms.
    assert scaling_model.all_reduce_seconds(4, 10**8, NETWORK) == pytest.approx(0.15 + 0.006)
    assert scaling_model.all_reduce_seconds(1, 10**8, NETWORK) == 0


def test_weak_and_strong():
    after, behind = scaling_model.weak(TRAINING, 100, 4, NETWORK)
    assert after == pytest.approx(1 / 1.156)
    assert behind == 1
    after, behind = scaling_model.strong(TRAINING, 40, 4, NETWORK)
    assert after == pytest.approx(0.1 / 0.256)
    assert behind == pytest.approx(0.1 / 0.156)
    assert scaling_model.strong(TRAINING, 40, 41, NETWORK) is None


def test_normalizations_that_wait_do_not_overlap():
    waiting = scaling_model.Training("made", 0.01, 10**8, waits=10)
    after, behind = scaling_model.step_seconds(waiting, 100, 4, NETWORK)
    assert after == pytest.approx(1 + 10 * 0.006 + 0.156)
    assert behind == pytest.approx(1 + 10 * 0.006)


def test_where_it_stops():
    def falling(devices):
        return None if devices > 300 else (10 / (10 + devices), 1)

    assert scaling_model.last_efficient(falling, 0) == 10
    assert scaling_model.last_efficient(falling, 1) == 300
    assert scaling_model.last_efficient(lambda devices: (1, 1), 0) is None
    assert scaling_model.last_efficient(lambda devices: (0.1, 0.1), 0) == 1


def test_what_a_larger_batch_saves():
    limits = scaling_model.batch_limits(100, 9, critical=900)
    assert (limits["batch"], limits["steps_an_epoch"], limits["speedup"]) == (900, 55, 5)
    assert scaling_model.batch_limits(100, 512, 900)["steps_an_epoch"] == 0
