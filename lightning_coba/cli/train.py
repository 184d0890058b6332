"""``coba-train``: compose a run from the configuration, train it, and leave everything in its folder."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lightning_coba.cli import plugins, resolvers
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.sweep import report_sweep
from lightning_coba.cli.templates import quoted_templates

# Hydra resolves the run's folder before it calls `train`.
resolvers.register()
plugins.register()


def train(config: DictConfig) -> float:
    """Run one training and return the best validation loss, which a sweep minimises."""
    # peft imports it wherever it is installed, and it warns of a kernel that is optional.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Lightning prints its messages itself; Hydra's handler at the root would print them again.
    logging.getLogger("lightning.pytorch").propagate = False
    # Hydra answers --help without any of this, and it takes seconds to import.
    from lightning_coba.cli.config_check import check_config
    from lightning_coba.cli.training_run import run
    from lightning_coba.runs.run_folder import RunFolder

    # Warnings are for the person who trains: the line of ours that raised one says nothing about the data. Lightning
    # sets this too, where it is imported.
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    try:
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ValueError(f"`{key}` has to be given: type {key}=... (coba-train --help says what it is).") from error
    check_config(settings)
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    with folder.held():
        checkpoint = folder.claim(config.resume, settings)
        if folder.is_finished(settings):
            print(f"The run in {folder.path} is finished; its results are there. Start another with name=...")
            return float(folder.card["val_loss"] or "nan")
        return run(settings, folder, checkpoint)


command = hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")(train)


def main() -> None:
    """Run the command; after a sweep, say what became of its jobs, however it ended."""
    sys.argv[1:] = quoted_templates(sys.argv[1:])
    # torch deprecates what lightning 2.6's _pytree still calls.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    try:
        command()
    except SystemExit as end:
        if end.code:
            _print_hint()
        raise
    finally:
        everything_went_well = report_sweep()
    if not everything_went_well:
        sys.exit(1)


def _print_hint() -> None:
    """Say what would have composed, where Hydra has said what did not."""
    from lightning_coba.cli.hints import hint_for

    if hint := hint_for(sys.argv[1:]):
        print(f"coba-train: {hint}", file=sys.stderr)


if __name__ == "__main__":
    # Workers of a sweep find `train` by the name of its module, which is not `__main__` there.
    from lightning_coba.cli.train import main as named_main

    named_main()
