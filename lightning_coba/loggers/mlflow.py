import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lightning_coba.loggers.shown_step import shown_step
from lightning_coba.loggers.tracker_id import default_name, need_package, read_id, write_id
from lightning_coba.runs.files import RunFiles


class RunMLflow(MLFlowLogger):
    """Log to MLflow; a resumed run goes on in the same MLflow run.

    Args:
        save_dir: the run folder, or that of a phase; it keeps the id of the MLflow run.
        experiment: where runs are compared, such as the name of the suite.
        tracking_uri: of a server, or a database such as ``sqlite:///mlflow.db``, which is made if need be.
        name: of the run; default: that of its folder, with the phase behind it.
        phase: name of the phase whose folder ``save_dir`` is; None where the run has one fit.

    Raises:
        ModuleNotFoundError: mlflow or what its database needs is not installed; says what to type.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        experiment: str,
        tracking_uri: str,
        name: str | None = None,
        phase: str | None = None,
    ) -> None:
        for package in ("mlflow", *(("sqlalchemy", "alembic") if tracking_uri.startswith("sqlite:") else ())):
            need_package(package, "mlflow")
        self._id_file = RunFiles(Path(save_dir)).mlflow_id
        super().__init__(
            experiment_name=experiment,
            run_name=name or default_name(save_dir, phase, longest=250),
            tracking_uri=tracking_uri,
            run_id=read_id(self._id_file),
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The MLflow client, with the run begun or taken up at the first use."""
        began = not self._initialized
        client = super().experiment
        if began:
            write_id(self._id_file, self._run_id)
            client.update_run(self._run_id, status="RUNNING")
        return client

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under the number of the step, counted from 1."""
        super().log_metrics(metrics, shown_step(step))

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Log the settings that MLflow does not know yet: it refuses to change one, such as a raised length."""
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({name: value for name, value in params.items() if name not in known})
