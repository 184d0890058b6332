import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_coba.lightning_internals import summary_writer
from lightning_coba.log_keys import VAL_LOSS
from lightning_coba.loggers.shown_step import shown_step
from lightning_coba.runs.files import RunFiles


class RunTensorBoard(TensorBoardLogger):
    """Log to TensorBoard files in the run folder: ``tensorboard --logdir runs``.

    Args:
        save_dir: the run folder; the files are in its ``tensorboard/``.
        **options: of torch's ``SummaryWriter``.
    """

    def __init__(self, save_dir: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(
            save_dir, name=RunFiles(Path(save_dir)).tensorboard.name, version="", default_hp_metric=False, **options
        )
        self._options = self._kwargs  # given to the writer when the first number comes

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Show nothing that an earlier attempt logged behind a step: the resumed run logs these steps again."""
        if step:
            self._options["purge_step"] = step + 1

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under the number of the step, counted from 1."""
        super().log_metrics(metrics, shown_step(step))

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Put the settings beside the validation loss in the tab HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        self.hparams = dict(params)  # for hparams.yaml
        known = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in params.items()}
        for summary in hparams(known, {VAL_LOSS: 0}):  # the name alone: its values are the run's
            summary_writer(self.experiment).add_summary(summary)
