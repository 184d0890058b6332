"""Lightning's loggers for a run folder: they say what to install, and go on in the same place after a resume."""

import importlib.util
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from lightning_coba.log_keys import VAL_LOSS

#: In the run folder: under which id the run is known to W&B, and to MLflow.
WANDB_ID, MLFLOW_ID = "wandb_run_id", "mlflow_run_id"


class RunTensorBoard(TensorBoardLogger):
    """Log to TensorBoard files in the run folder: ``tensorboard --logdir runs``.

    Args:
        save_dir: the run folder; the files are in its ``tensorboard/``.
        **options: of torch's ``SummaryWriter``.
    """

    def __init__(self, save_dir: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False, **options)
        self._options = self._kwargs  # given to the writer when the first number comes

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Show nothing that an earlier attempt logged from a step on: the resumed run logs these steps again."""
        if step:
            self._options["purge_step"] = step

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Put the settings beside the validation loss in the tab HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        self.hparams = dict(params)  # for hparams.yaml
        known = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in params.items()}
        for summary in hparams(known, {VAL_LOSS: 0}):  # the name alone: its values are the run's
            self.experiment._get_file_writer().add_summary(summary)


class RunWandb(WandbLogger):
    """Log to Weights & Biases; a resumed run goes on in the same W&B run.

    Args:
        save_dir: the run folder, which keeps the id of the W&B run; its files are in ``wandb/``.
        project: where runs are compared, such as the name of the suite.
        name: of the run; default: that of its folder.
        offline: write files only, for ``wandb sync`` later. The variable ``WANDB_MODE=offline`` does the same.
        **options: of ``wandb.init``, such as ``entity`` or ``tags``.

    Raises:
        ModuleNotFoundError: wandb is not installed; says what to type.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        project: str,
        name: str | None = None,
        offline: bool = False,
        **options: Any,
    ) -> None:
        _need("wandb", "wandb")
        self._id_file = Path(save_dir) / WANDB_ID
        super().__init__(
            name=name or self._id_file.absolute().parent.name[:128],
            save_dir=save_dir,
            project=re.sub(r"[/\\#?%:]+", "-", project)[:128],
            id=_read(self._id_file) or secrets.token_hex(4),
            offline=offline,
            **options,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun or taken up at the first use."""
        began = self._experiment is None
        run = super().experiment
        if began:
            _write(self._id_file, run.id)
        return run


class RunMLflow(MLFlowLogger):
    """Log to MLflow; a resumed run goes on in the same MLflow run.

    Args:
        save_dir: the run folder, which keeps the id of the MLflow run.
        experiment: where runs are compared, such as the name of the suite.
        tracking_uri: of a server, or a database such as ``sqlite:///mlflow.db``, which is made if need be.
        name: of the run; default: that of its folder.

    Raises:
        ModuleNotFoundError: mlflow or what its database needs is not installed; says what to type.
    """

    def __init__(
        self, save_dir: str | os.PathLike[str], experiment: str, tracking_uri: str, name: str | None = None
    ) -> None:
        for package in ("mlflow", *(("sqlalchemy", "alembic") if tracking_uri.startswith("sqlite:") else ())):
            _need(package, "mlflow")
        self._id_file = Path(save_dir) / MLFLOW_ID
        super().__init__(
            experiment_name=experiment,
            run_name=name or self._id_file.absolute().parent.name[:250],
            tracking_uri=tracking_uri,
            run_id=_read(self._id_file),
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The MLflow client, with the run begun or taken up at the first use."""
        began = not self._initialized
        client = super().experiment
        if began:
            _write(self._id_file, self._run_id)
            client.update_run(self._run_id, status="RUNNING")
        return client

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Log the settings that MLflow does not know yet: it refuses to change one, such as a raised length."""
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({name: value for name, value in params.items() if name not in known})


def finish_wandb(exit_code: int) -> None:
    """End the W&B run of this process, if there is one: the next run of a sweep would be logged to it."""
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=exit_code)


def _need(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"`logger={extra}` needs the package {package}. Type: pip install -c constraints.txt "
            f"'lightning-coba[{extra}]'"
        )


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _write(file: Path, run_id: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(run_id + "\n", encoding="utf-8")
