import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.errors import UserError
from lightning_coba.simplex import notebook
from lightning_coba.simplex.protocol import simplexes_of
from lightning_coba.simplex.standings import standings_columns, standings_of


class NotebookView(L.Callback):
    """Show a training in the notebook that runs it: a table of the tasks and their curves, drawn again in place.

    Use it in the Trainer of a notebook, with any module and any balancer of this package, instead of a progress bar
    (``enable_progress_bar=False``). It shows whatever a callback or the module moves (see
    :class:`~lightning_coba.simplex.MovesSimplex`). For a run of another process, see
    :func:`lightning_coba.reports.follow`.

    Args:
        every_n_validations: Validation passes between two drawings, which take about half a second each.

    Raises:
        ValueError: ``every_n_validations`` is not positive.
        ModuleNotFoundError: At the start of training, where this is no notebook.

    Example:
        >>> trainer = L.Trainer(callbacks=[NotebookView()], logger=False, enable_checkpointing=False)
    """

    def __init__(self, every_n_validations: int = 1) -> None:
        if every_n_validations < 1:
            raise UserError(
                f"`NotebookView.every_n_validations` must be >= 1; got {every_n_validations}.",
                "To show nothing, leave the callback out.",
            )
        self.every_n_validations = every_n_validations
        self._passes = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open an output below the cell."""
        self._passes = 0
        if trainer.is_global_zero:
            self._output = notebook.NotebookOutput()
            self._output.show("Training has begun; the first validation pass is to come.")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw every n-th time."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._passes += 1
            if self._passes % self.every_n_validations == 0:
                self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the end, also of a training that was stopped."""
        self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        from lightning_coba.simplex.figures import curves  # matplotlib takes a second

        simplexes = simplexes_of(trainer, pl_module)
        figures = [[*curves(simplex.table(), simplex.losses).values()] for simplex in simplexes]
        standings = standings_of(trainer, pl_module)
        tables = [notebook.html_table(shown.name, standings_columns(shown)) for shown in standings]
        sections = zip(tables, figures or [[] for _ in tables], strict=True)
        end = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
        self._output.show(notebook.notebook_html(f"Step {trainer.global_step}{end}", sections))
