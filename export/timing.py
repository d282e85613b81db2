"""Timing of several functions that do the same work, and what their times say.

A shared machine is faster in one minute than in the next. So the contenders take turns, and what is
compared is the times of one round.
"""

import time

import numpy as np

# Before the first round: memory is allocated, kernels are chosen and graphs traced by then.
WARM_UP = 5
# The 10th to the 90th percentile, as a part of the median, above which a number is no exact one.
NOISY = 0.1


def measure(
    contenders, batches, rounds, clock=time.perf_counter, advance=lambda: None, warm_up=None
):
    """Times each contender once with each batch in each round: A B C, A B C, …

    Before its timed call a contender has an untimed one, without which it would pay for the caches
    that the one before it has filled.

    Args:
        contenders: Dictionary name -> function of a batch.
        batches: Dictionary size -> the batch.
        rounds: Integer.
        clock: Function that returns seconds.
        advance: Function that is called after each round.
        warm_up: Integer, untimed rounds before the first (default: `WARM_UP`).

    Returns:
        Dictionary (name, size) -> float64 array [rounds], seconds a call.
    """
    for _ in range(WARM_UP if warm_up is None else warm_up):
        for batch in batches.values():
            for call in contenders.values():
                call(batch)
    seconds = {(name, size): np.empty(rounds) for size in batches for name in contenders}
    for done in range(rounds):
        for size, batch in batches.items():
            for name, call in contenders.items():
                call(batch)
                started = clock()
                call(batch)
                seconds[name, size][done] = clock() - started
        advance()
    return seconds


def summarize(seconds, baseline):
    """Returns the numbers of each contender and batch, in the order of `seconds`.

    `milliseconds` are of a call, `speedup` is the baseline's time by the contender's, both over the
    rounds: the median, percentiles, `spread`, which is the distance of the 10th to the 90th as a
    part of the median, and `noisy`, whether that is above `NOISY`.

    Args:
        seconds: As `measure` returns it.
        baseline: The name of the contender that the others are compared with.

    Returns:
        A list of dictionaries of `model`, `batch`, `milliseconds`, `images_per_second` (at the
        median) and `speedup`.
    """
    rows = []
    for (name, size), its_own in seconds.items():
        rows.append(
            {
                "model": name,
                "batch": size,
                "milliseconds": percentiles(1e3 * its_own),
                "images_per_second": round(float(size / np.median(its_own)), 2),
                "speedup": percentiles(seconds[baseline, size] / its_own),
            }
        )
    return rows


def percentiles(values):
    """Returns `median`, `p10`, `p90`, `p99`, `spread` and `noisy` of an array."""
    p10, median, p90, p99 = np.percentile(values, (10, 50, 90, 99))
    spread = (p90 - p10) / median
    numbers = {"median": median, "p10": p10, "p90": p90, "p99": p99, "spread": spread}
    rounded = {key: round(float(value), 4) for key, value in numbers.items()}
    return {**rounded, "noisy": bool(spread > NOISY)}


def mark(numbers):
    """Returns what stands before a number that was measured: a ~ if it is not exact."""
    return "~" if numbers["noisy"] else ""


def noise_note(numbers, noisy_above):
    """Returns the lines that explain the ~: one, or none where no number has it.

    Args:
        numbers: Iterable of what `percentiles` returns.
        noisy_above: The report's own `NOISY`.
    """
    if not any(its_own["noisy"] for its_own in numbers):
        return []
    return [
        "~ noisy: its 10th and 90th percentile are more than "
        f"{noisy_above:.0%} of the median apart; repeat it on an idle machine"
    ]
