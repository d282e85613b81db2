"""Interleaved timing of functions that do the same work, and the statistics of their times.

The speed of a shared machine changes from minute to minute. So the contenders take turns, and
ratios are computed within a round.
"""

import time

import numpy as np

# Untimed rounds, in which memory is allocated, kernels are chosen and graphs are traced.
WARM_UP = 5
# A number is noisy if its 10th and 90th percentile differ by more than this share of the median.
NOISY = 0.1


def measure(
    contenders,
    batches,
    rounds,
    warm_up=WARM_UP,
    after_round=lambda: None,
    clock=time.perf_counter,
):
    """Times each contender once with each batch in each round: A B C, A B C, …

    An untimed call precedes each timed one, because the previous contender has filled the caches.

    Args:
        contenders: Dictionary, name to callable that takes a batch.
        batches: Dictionary, size to batch.
        rounds: Integer, timed rounds.
        warm_up: Integer, untimed rounds before them.
        after_round: Callable without arguments.
        clock: Callable that returns seconds.

    Returns:
        Dictionary, (name, size) to float64 array [rounds] of seconds per call.
    """
    from training import console  # it needs rich, which is optional like all that is timed

    for _ in range(warm_up):
        for batch in batches.values():
            for call in contenders.values():
                call(batch)
    seconds = {(name, size): np.empty(rounds) for size in batches for name in contenders}
    # The bar is drawn only between rounds, so that it takes no time from a measurement.
    with console.progress("measuring", rounds, background=False) as advance:
        for done in range(rounds):
            for size, batch in batches.items():
                for name, call in contenders.items():
                    call(batch)
                    started = clock()
                    call(batch)
                    seconds[name, size][done] = clock() - started
            after_round()
            advance()
    return seconds


def summarize(seconds, baseline):
    """Returns a row for each contender and batch, in the order of `seconds`.

    Args:
        seconds: Return value of `measure`.
        baseline: Name of the contender that the others are compared with.

    Returns:
        List of dictionaries: `contender`, `batch`, `milliseconds` (statistics of a call),
        `images_per_second` (at the median), `ratio` and `speedup` (statistics of the contender's
        time divided by the baseline's in the same round, and of the inverse).
    """
    return [
        {
            "contender": name,
            "batch": size,
            "milliseconds": percentiles(1e3 * times),
            "images_per_second": round(float(size / np.median(times)), 2),
            "ratio": percentiles(times / seconds[baseline, size]),
            "speedup": percentiles(seconds[baseline, size] / times),
        }
        for (name, size), times in seconds.items()
    ]


def percentiles(values):
    """Returns `median`, `p10`, `p90`, `p99`, `spread` and `noisy` of an array.

    `spread` is the distance of the 10th to the 90th percentile, divided by the median.
    """
    p10, median, p90, p99 = np.percentile(values, (10, 50, 90, 99))
    spread = (p90 - p10) / median
    numbers = {"median": median, "p10": p10, "p90": p90, "p99": p99, "spread": spread}
    rounded = {key: round(float(value), 4) for key, value in numbers.items()}
    return {**rounded, "noisy": bool(spread > NOISY)}


def mark(statistics):
    """Returns the prefix of a number: "~" if it is noisy, else nothing."""
    return "~" if statistics["noisy"] else ""


def noise_note(statistics):
    """Returns the lines that explain the "~" in a table of `percentiles`; none without noise."""
    if not any(numbers["noisy"] for numbers in statistics):
        return []
    return [
        f"~ noisy: the 10th and 90th percentile differ by more than {NOISY:.0%} of the median. "
        "Repeat the benchmark on an idle machine."
    ]
