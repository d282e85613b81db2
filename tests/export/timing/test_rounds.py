"""The measuring, with a clock that only the contenders move."""

import numpy as np
import pytest

from export.timing import rounds


class Track:
    """A clock and the calls that were made; a contender that was not the last one is cold."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def contender(self, name, seconds, cold=0.0):
        """Returns a function of a batch that takes `seconds(call's number)`, and `cold` more."""

        def call(batch):
            number = sum(done == (name, batch) for done in self.calls)
            is_cold = not self.calls or self.calls[-1] != (name, batch)
            self.calls.append((name, batch))
            self.now += seconds(number) + cold * is_cold

        return call


def rows_of(seconds):
    arrays = {key: np.array(values, float) for key, values in seconds.items()}
    return {(row["contender"], row["batch"]): row for row in rounds.summarize(arrays, baseline="a")}


def test_contenders_take_turns():
    track = Track()
    contenders = {name: track.contender(name, lambda number: 1.0) for name in "abc"}
    advanced = []
    rounds.measure(
        contenders,
        {1: "one", 8: "eight"},
        rounds=3,
        clock=lambda: track.now,
        after_round=lambda: advanced.append(len(track.calls)),
    )
    turns = [(name, batch) for batch in ("one", "eight") for name in "abc"]
    warm_up = rounds.WARM_UP * len(turns)
    assert track.calls[:warm_up] == rounds.WARM_UP * turns
    assert track.calls[warm_up:] == 3 * [turn for turn in turns for _ in range(2)]
    assert advanced == [warm_up + 2 * len(turns) * done for done in (1, 2, 3)]


def test_only_warm_calls_are_timed():
    track = Track()
    contenders = {
        "a": track.contender("a", lambda number: 2.0, cold=100.0),
        # Slow until it is warm, then the second of each pair takes 3, 5, 7, 9 seconds.
        "b": track.contender(
            "b", lambda number: 50.0 if number < rounds.WARM_UP else number - rounds.WARM_UP + 2
        ),
    }
    seconds = rounds.measure(contenders, {4: "four"}, rounds=4, clock=lambda: track.now)
    assert list(seconds) == [("a", 4), ("b", 4)]
    np.testing.assert_allclose(seconds["a", 4], [2, 2, 2, 2])
    np.testing.assert_allclose(seconds["b", 4], [3, 5, 7, 9])


def test_percentiles_and_images_per_second():
    seconds = np.random.default_rng(0).permutation(np.arange(101)) / 1e4 + 0.01
    row = rows_of({("a", 8): seconds})["a", 8]
    milliseconds = row["milliseconds"]
    expected = {"p10": 11.0, "median": 15.0, "p90": 19.0, "p99": 19.9}
    assert {key: milliseconds[key] for key in expected} == expected
    assert milliseconds["spread"] == pytest.approx(8 / 15, abs=1e-4)
    assert row["images_per_second"] == pytest.approx(8 / 0.015, abs=0.01)


def test_the_ratio_is_taken_round_by_round_to_the_baseline_with_the_same_batch():
    # b is twice as fast, except for the round in which the machine became ten times slower. The
    # ratio of the medians would be 20.
    rows = rows_of({("a", 1): [1, 1, 10, 10, 10], ("b", 1): [0.5, 0.5, 0.5, 5, 5]})
    assert rows["b", 1]["speedup"]["median"] == 2
    assert rows["b", 1]["ratio"]["median"] == 0.5
    assert rows["a", 1]["speedup"]["median"] == 1
    rows = rows_of({("b", 1): [1, 1], ("a", 1): [3, 3], ("b", 8): [1, 1], ("a", 8): [7, 7]})
    assert [row["speedup"]["median"] for row in rows.values()] == [3, 1, 7, 1]


@pytest.mark.parametrize(("width", "noisy"), [(0.099, False), (0.101, True)])
def test_noisy_is_a_spread_above_a_tenth(width, noisy):
    # The 10th and the 90th percentile of these are 0.8 of their range apart.
    seconds = 1 + np.linspace(-0.5, 0.5, 11) * width / 0.8
    row = rows_of({("a", 1): np.ones(11), ("b", 1): seconds})["b", 1]
    assert row["milliseconds"]["spread"] == pytest.approx(width, abs=1e-4)
    assert row["milliseconds"]["noisy"] is noisy


def test_a_common_drift_does_not_make_the_speedup_noisier():
    drift = np.linspace(1, 2, 20)
    row = rows_of({("a", 1): drift, ("b", 1): drift / 2})["b", 1]
    assert row["milliseconds"]["noisy"]
    assert not row["speedup"]["noisy"]
