"""Where the tasks' names come from before the first validation pass, and the weights that bear them."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L

from lightning_coba.balancing import notices
from lightning_coba.balancing.task_weights import TaskWeights


def attached_weights(module: L.LightningModule, attribute: str) -> TaskWeights:
    """Return the module's weights, which it is given here if it has none.

    Raises:
        ValueError: The attribute is something else.
    """
    weights = getattr(module, attribute, None)
    if weights is None:
        weights = TaskWeights()
        setattr(module, attribute, weights)
    notices.refuse_attribute(attribute, weights, module)
    return weights


def bind_known_names(
    weights: TaskWeights,
    given: Sequence[str],
    module: L.LightningModule,
    datamodule: Any,
    held_out: Mapping[str, Any] | None,
) -> None:
    """Name the tasks after the first source that there is; leave them unnamed where there is none."""
    sources = (
        given,
        weights.tasks,
        getattr(module, "task_names", None),
        getattr(datamodule, "task_names", None),
        held_out,
    )
    names = next((list(source) for source in sources if source), None)
    if names:
        weights.bind(names)
