"""What `coba-train` asks of a system, beside what Lightning asks of a module. Every method is optional."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L

Better = Literal["min", "max"]


class Result(NamedTuple):
    """One measure at the end of a run.

    Attributes:
        values: name of a task, an objective or a level -> its value; a plain number where there are no parts.
        better: direction that is better.
    """

    values: Mapping[str, float] | float
    better: Better = "min"


class System(Protocol):
    """A LightningModule that `coba-train` trains; what it leaves out has a default.

    Its class is the ``_target_`` of ``conf/system/<name>.yaml``. The parts ``model``, ``peft``, ``optimizer`` and
    ``scheduler`` of the configuration are passed under these names where the class has such an argument.
    """

    def card(self) -> Mapping[str, Any]:
        """Return what ``run.json`` says of the system: ``tasks`` (names), ``method``, settings that matter.

        Default: the task names of the datamodule, and the balancer or the class as the method.
        """
        ...

    def results(self) -> Mapping[str, Result]:
        """Return the numbers of the end by key; reports rank runs by the first.

        It is asked after the test pass, of the chosen checkpoint; ``self.trainer.callback_metrics`` holds what that
        pass has logged, also where other processes made it. Default: the logged ``test_...`` keys; lower is better.
        """
        ...

    def objective(self) -> tuple[str, Better]:
        """Return what a sweep optimises and the best checkpoint is chosen by: a logged key and its direction.

        Default: ``("val_loss", "min")``.
        """
        ...

    def figures(self, folder: str | PathLike[str]) -> None:
        """Draw into a folder what people would rather look at than read. Default: nothing."""
        ...

    def assemble(self) -> None:
        """Bring together on rank 0 what it is going to save, where a strategy shards parameters; every rank is asked.

        Default: nothing.
        """
        ...

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write what a user takes away, loadable without this package. Default: nothing."""
        ...


class SystemData(Protocol):
    """A LightningDataModule of a system."""

    def prepare_for(self, module: L.LightningModule) -> None:
        """Take from the module what reading the data needs, such as its tokenizer."""
        ...

    def summary(self) -> Any:
        """Return what is printed about the data before training; ``prepare_data`` and ``setup`` come before it."""
        ...
