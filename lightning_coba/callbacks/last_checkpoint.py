from os import PathLike
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.lightning_internals import is_accumulating
from lightning_coba.runs.checkpoint_file import written_whole
from lightning_coba.runs.files import RunFiles


class LastCheckpoint(Checkpoint):
    """Keep one checkpoint from which a killed run resumes exactly, written after each validation pass.

    There the pass has been run, its record taken and everything logged; a checkpoint that Lightning writes at a
    training step where a pass is due comes before that pass, which a resumed run then never makes. The file is
    replaced in one move, and what the loggers hold is written first, so that a killed run loses no row. The checkpoint
    before it is kept beside it, as ``previous.ckpt``, should the file be damaged later.

    Args:
        path: File to write.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        super().__init__()
        self.path = str(path)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless this is the sanity pass or the middle of an accumulation window."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.fast_dev_run:
            return
        if not is_accumulating(trainer):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write the file now; every rank calls it, where an optimizer step is complete and no pass is due."""
        for logger in trainer.loggers:
            logger.save()
        file = Path(self.path)
        with written_whole(trainer, file, previous=file.with_name(RunFiles.previous_checkpoint.name)) as partial:
            trainer.save_checkpoint(partial, weights_only=False)
