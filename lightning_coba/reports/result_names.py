"""How results and objectives are called and written for people: by their key, unless they have a name."""

import math

from numpy.typing import ArrayLike

from lightning_coba.log_keys import TEST_EXACT_MATCH, TEST_LOSS, TEST_TOKEN_ACCURACY, VAL_LOSS
from lightning_coba.reports.formats import DASH
from lightning_coba.reports.statistics import mean_and_deviation
from lightning_coba.runs.card import MULTITASK, Better, Result
from lightning_coba.runs.collection import Run

_NAMES = {
    TEST_LOSS: "test loss",
    TEST_TOKEN_ACCURACY: "token accuracy",
    TEST_EXACT_MATCH: "exact match",
    VAL_LOSS: "validation loss",
}
#: Results between 0 and 1, which are written in percent.
_SHARES = {TEST_TOKEN_ACCURACY, TEST_EXACT_MATCH}


def result_name(key: str) -> str:
    """Return what a result or an objective is called.

    Example:
        >>> result_name("test_loss"), result_name("test_f1")
        ('test loss', 'test_f1')
    """
    return _NAMES.get(key, key)


def result_title(key: str) -> str:
    """Return the name at the beginning of a title; a key stays as it is.

    Example:
        >>> result_title("test_loss"), result_title("test_f1")
        ('Test loss', 'test_f1')
    """
    return _NAMES[key].capitalize() if key in _NAMES else key


def is_share(key: str) -> bool:
    """Return whether a result lies between 0 and 1 and is written in percent."""
    return key in _SHARES


def written(key: str, value: float) -> str:
    """Write a value of a result.

    Example:
        >>> written("test_loss", 0.51234), written("test_token_accuracy", 0.51234), written("test_f1", float("nan"))
        ('0.512', '51.2 %', '—')
    """
    if not math.isfinite(value):
        return DASH
    return f"{100 * value:.1f} %" if key in _SHARES else f"{value:.3f}"


def written_over_seeds(key: str, values: ArrayLike) -> str:
    """Write the mean of a result over seeds, and its standard deviation where there are several.

    Example:
        >>> written_over_seeds("test_loss", [1.0, 2.0]), written_over_seeds("test_token_accuracy", [0.5])
        ('1.500 ± 0.707', '50.0 %')
    """
    mean, deviation = mean_and_deviation(values)
    if not math.isfinite(deviation):
        return written(key, mean)
    return f"{written(key, mean).removesuffix(' %')} ± {written(key, deviation)}"


def is_of_tasks(run: Run, result: Result) -> bool:
    """Return whether the parts of a result are tasks of the run: of other parts no mean is taken."""
    tasks = run.tasks if run.system == MULTITASK else run.card.get("tasks") or ()
    return {*result.values} <= {*tasks}


def comparative(better: Better) -> str:
    """Return the word for what is better: lower or higher."""
    return "lower" if better == "min" else "higher"


def superlative(better: Better) -> str:
    """Return the word for what is best: lowest or highest."""
    return "lowest" if better == "min" else "highest"
