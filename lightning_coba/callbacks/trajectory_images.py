import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.balancing.publish import logging_step
from lightning_coba.balancing.task_balancing import TaskBalancing
from lightning_coba.log_keys import BALANCE


class TrajectoryImages(L.Callback):
    """Log the curves of loss ratios and weights as images, for loggers that show images.

    Use it with Lightning's loggers for TensorBoard, Weights & Biases or MLflow; without any of these it does nothing.
    The scalars are logged anyway; an image has all tasks in one picture, in the colours of the reports. Two images
    take about half a second, so they are drawn now and then and at the end. Put it behind ``StepTimer``, whose times
    are then without it.

    Args:
        every_n_validations: validation passes between two drawings.

    Raises:
        ValueError: ``every_n_validations`` is not positive.

    Example:
        >>> TrajectoryImages(every_n_validations=5).every_n_validations
        5
    """

    def __init__(self, every_n_validations: int = 10) -> None:
        if every_n_validations < 1:
            raise ValueError(
                f"`TrajectoryImages.every_n_validations` must be >= 1; got {every_n_validations}. To draw "
                "nothing, leave the callback out."
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
                self._draw(trainer, logging_step(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the whole run."""
        self._draw(trainer, logging_step(trainer) - 1)  # the label of the last step's numbers

    def _draw(self, trainer: L.Trainer, step: int) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        from lightning_coba.loggers.images import SHOWS_IMAGES, log_figure
        from lightning_coba.simplex.figures import loss_ratio_figure, weights_figure
        from lightning_coba.simplex.records import BalanceTable

        loggers = [logger for logger in trainer.loggers if isinstance(logger, SHOWS_IMAGES)]
        balancers = [callback for callback in trainer.callbacks if isinstance(callback, TaskBalancing)]
        records = sum(balancer.num_records for balancer in balancers)
        if not loggers or not records or records == self._drawn:
            return
        self._drawn = records
        for balancer in balancers:
            if not balancer.num_records:
                continue
            table = BalanceTable.from_history(balancer.history, balancer.tasks)
            prefix = BALANCE if len(balancers) == 1 else f"{BALANCE}/{balancer.attribute}"
            figures = {"loss_ratios": loss_ratio_figure(table, balancer.losses_shown), "weights": weights_figure(table)}
            for logger in loggers:
                for name, figure in figures.items():
                    log_figure(logger, f"{prefix}/{name}", figure, step)
