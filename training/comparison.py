"""What finished runs say: figures of each run, statistics of each variant, paired differences."""

import math
import statistics

import numpy as np
from scipy import stats

from training import runs
from training.cli import InputError

CONFIDENCE = 0.95
RESAMPLES = 2**16  # every sign flip of up to 16 seeds; draws of them beyond
ROUNDING = 1e-9  # figures are stored with 6 decimals: what is nearer together is equal
COSTS = ("parameters", "multiply_adds", "step_milliseconds", "minutes")


def figures(run, on_validation):
    """Returns the figures of a finished run, from its record.

    Args:
        run: A `grid.Run`.
        on_validation: Whether the figure is the last epoch's on the validation split, and not
            that of the test set, which is then not looked at.

    Returns:
        A dictionary: `top1`, `top5` and `loss`, what they cost, where the run is and what it ran
        on.

    Raises:
        InputError: If a file of the run is missing or damaged.
    """
    result, config = (runs.read_json(run.record / f"{name}.json") for name in ("result", "config"))
    rows = runs.read_history(run.record / "history.csv")
    recipe = run.variant.recipe
    try:
        if not rows or rows[-1]["epoch"] != result["epochs"]:
            raise ValueError(f"history.csv does not end with epoch {result['epochs']}")
        measured = {key: result[key] for key in ("top1", "top5", "loss")}
        if on_validation:
            measured = {key: rows[-1][f"val_{key}"] for key in measured}
        speed = statistics.median(
            row["images_per_second"]
            for row in rows
            if recipe.image_size(row["epoch"] - 1) == recipe.image_sizes[-1]
        )
        return {
            "name": run.variant.name,
            "arch": config["arch"],
            "stem": config["stem"],
            "seed": run.seed,
            **measured,
            "parameters": result["parameters"],
            "epochs": result["epochs"],
            "minutes": result["minutes"],
            "step_milliseconds": round(1e3 * recipe.batch_size / speed, 3),
            "classes": config["classes"],
            "data": result["data"],
            "folder": str(run.folder),
            "environment": {
                key: config["environment"][key] for key in ("versions", "machine", "git_revision")
            },
        }
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{run.record} is damaged ({type(error).__name__}: {error}). Move it away: the same "
            "command goes on without it."
        ) from None


def compare(rows, names, baseline, costs):
    """Returns a row a variant: its statistics and its difference to the baseline.

    Args:
        rows: List of `figures`.
        names: The variants' names, in order.
        baseline: One of them.
        costs: Dictionary from each name to its multiply-adds, or `None`.

    Returns:
        A list of dictionaries. `difference` is `None` for the baseline and where no seed is
        finished in both.
    """
    top1 = {
        name: {row["seed"]: row["top1"] for row in rows if row["name"] == name} for name in names
    }
    compared = []
    for name in names:
        own = [row for row in rows if row["name"] == name]
        median = {
            key: statistics.median([row[key] for row in own]) if own else None
            for key in COSTS
            if key != "multiply_adds"
        }
        compared.append(
            {
                "name": name,
                **summarize(list(top1[name].values())),
                **median,
                "multiply_adds": costs[name],
                "difference": (
                    None if name == baseline else difference(top1[name], top1[baseline])
                ),
            }
        )
    return compared


def summarize(values):
    """Returns count, mean, sample standard deviation (ddof 1; `None` of one), and range."""
    if not values:
        return {"n": 0, "mean": None, "std": None, "min": None, "max": None}
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
    }


def difference(values, baseline):
    """Returns the paired difference of two variants over the seeds that both have.

    The interval is Student's t on the differences. The check beside it needs no normal
    distribution: the exact two-sided permutation test, which flips the differences' signs.

    Args:
        values: Dictionary from seed to figure.
        baseline: The same of the baseline.

    Returns:
        A dictionary, or `None` without a common seed. `low` and `high` are `None` for a single
        pair, and `verdict` says why; else it is better, worse, or no difference shown.
    """
    seeds = sorted(set(values) & set(baseline))
    if not seeds:
        return None
    ours, theirs = (np.array([each[seed] for seed in seeds]) for each in (values, baseline))
    differences = ours - theirs
    found = {
        "seeds": seeds,
        "differences": differences.tolist(),
        "mean": float(differences.mean()),
        "std": None,
        "low": None,
        "high": None,
        "p_t": None,
        "p_permutation": None,
        "verdict": "one pair: no interval",
    }
    if len(seeds) == 1:
        return found
    low, high, p = _student(ours, theirs)
    permutation = stats.permutation_test(
        (differences,),
        lambda sample, axis: sample.mean(axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=RESAMPLES // 16,
        random_state=0,
    )
    return found | {
        "std": float(differences.std(ddof=1)),
        "low": low,
        "high": high,
        "p_t": p,
        "p_permutation": float(permutation.pvalue),
        "verdict": "better" if low > 0 else "worse" if high < 0 else "no difference shown",
    }


def _student(ours, theirs):
    """Returns the interval's ends and the p-value of the paired t-test.

    Where all differences are equal, t divides by 0: the interval is that one value.
    """
    differences = ours - theirs
    if np.ptp(differences) < ROUNDING:
        mean = float(differences.mean()) if abs(differences.mean()) > ROUNDING else 0.0
        return mean, mean, float(mean == 0)
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high), float(test.pvalue)


def smallest_p(count):
    """Returns the smallest two-sided p-value that a permutation test of `count` pairs can have."""
    return 2 / math.pow(2, count)
