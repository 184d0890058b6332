"""Under which number people find a step: Lightning gives loggers the steps counted from 0."""

from typing import overload


@overload
def shown_step(step: int) -> int: ...
@overload
def shown_step(step: None) -> None: ...
def shown_step(step: int | None) -> int | None:
    """Return the number of an optimizer step, counted from 1; None, where Lightning names no step, stays None."""
    return None if step is None else step + 1
