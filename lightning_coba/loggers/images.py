"""Show figures in TensorBoard, Weights & Biases and MLflow, each through its own public way."""

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_coba.loggers.mlflow import RunMLflow
from lightning_coba.loggers.shown_step import shown_step
from lightning_coba.loggers.tensorboard import RunTensorBoard

SHOWS_IMAGES = (TensorBoardLogger, WandbLogger, MLFlowLogger)


def log_figure(logger: Logger, key: str, figure: Figure, step: int) -> None:
    """Log a figure as an image.

    Args:
        logger: one of Lightning's for TensorBoard, W&B or MLflow; any other shows no images, and gets none.
        key: of the image.
        figure: without pyplot's state, as those of this package.
        step: the optimizer step that it belongs to, as Lightning counts it, from 0.
    """
    if not isinstance(logger, SHOWS_IMAGES):
        return
    pixels = _pixels(figure)
    number = shown_step(step) if isinstance(logger, RunTensorBoard | RunMLflow) else step  # that of its scalars
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, pixels, global_step=number, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(key, [pixels], step=step)
    else:
        logger.experiment.log_image(logger.run_id, pixels, key=key, step=number)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
