import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.balancing.publish import logging_step
from lightning_coba.errors import UserError
from lightning_coba.simplex.protocol import simplexes_of

#: Names of the figures behind the prefix of what is logged.
KEYS = {"loss_ratio": "loss_ratios", "weights": "weights"}


class TrajectoryImages(L.Callback):
    """Log the curves of loss ratios and weights as images, for loggers that show images.

    Use it with Lightning's loggers for TensorBoard, Weights & Biases or MLflow; without any of these it does nothing.
    The scalars are logged anyway; an image has all names in one picture, in the colours of the reports. It draws what
    any callback or module of the run moves (see :class:`~lightning_coba.simplex.MovesSimplex`). Two images take about
    half a second, so they are drawn now and then and at the end. Put it behind ``StepTimer``, whose times are then
    without it.

    Args:
        every_n_validations: Validation passes between two drawings.

    Raises:
        ValueError: ``every_n_validations`` is not positive.

    Example:
        >>> TrajectoryImages(every_n_validations=5).every_n_validations
        5
    """

    def __init__(self, every_n_validations: int = 10) -> None:
        if every_n_validations < 1:
            raise UserError(
                f"`TrajectoryImages.every_n_validations` must be >= 1; got {every_n_validations}.",
                "To draw nothing, leave the callback out.",
            )
        self.every_n_validations = every_n_validations
        self._passes = 0
        self._drawn = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from here."""
        self._passes = 0
        self._drawn = -1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw every n-th time."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._passes += 1
            if self._passes % self.every_n_validations == 0:
                self._draw(trainer, pl_module, logging_step(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the whole run."""
        self._draw(trainer, pl_module, logging_step(trainer) - 1)  # the label of the last step's numbers

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        from lightning_coba.loggers.images import SHOWS_IMAGES, log_figure
        from lightning_coba.simplex.figures import curves

        loggers = [logger for logger in trainer.loggers if isinstance(logger, SHOWS_IMAGES)]
        simplexes = simplexes_of(trainer, pl_module)
        records = sum(simplex.num_records for simplex in simplexes)
        if not loggers or not records or records == self._drawn:
            return
        self._drawn = records
        for simplex in simplexes:
            for name, figure in curves(simplex.table(), simplex.losses).items():
                for logger in loggers:
                    log_figure(logger, f"{simplex.log_prefix}/{KEYS[name]}", figure, step)
