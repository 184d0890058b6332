"""``coba-train``: compose a run from the configuration, train it, and leave everything in its folder."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
import hydra._internal.utils
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_coba.cli import plugins, resolvers
from lightning_coba.cli.command_end import end_with
from lightning_coba.cli.command_line import quiet_dependencies
from lightning_coba.cli.composition import check_own_files
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.hints import refuse_dashes
from lightning_coba.cli.stopping import Stopped, ignore_signals, listen, listening
from lightning_coba.cli.sweep import report_sweep
from lightning_coba.cli.templates import quoted_templates

# Hydra resolves the run's folder before it calls `train`.
resolvers.register()
plugins.register()


def train(config: DictConfig) -> float:
    """Make one run and return its objective, which a sweep minimises."""
    with leaving_no_empty_folder(Path(HydraConfig.get().runtime.output_dir)):
        return _train(config)


def _train(config: DictConfig) -> float:
    quiet_dependencies()
    # Lightning prints its messages itself; Hydra's handler at the root would print them again.
    logging.getLogger("lightning.pytorch").propagate = False
    # Hydra answers --help without any of this, and it takes seconds to import.
    from lightning_coba.cli.config_check import check_config
    from lightning_coba.cli.own_files import located
    from lightning_coba.cli.phases import fits_of, ignored_overrides
    from lightning_coba.cli.system import with_parts
    from lightning_coba.cli.training_run import run
    from lightning_coba.runs.run_folder import RunFolder

    hydra_config = HydraConfig.get()
    with located():
        fits = fits_of(config)
        for fit in fits:
            check_config(fit.settings | {"system": with_parts(fit.settings)})
    for hint in ignored_overrides(config, hydra_config.overrides.task):
        print(f"coba-train: {hint}", file=sys.stderr)
    folder = RunFolder(Path(hydra_config.runtime.output_dir))
    with listening(), located(), plain_warnings(), folder.held():
        return run(fits, folder, config.resume)


@contextmanager
def leaving_no_empty_folder(folder: Path) -> Iterator[None]:
    """Take an empty folder away where a run ends before it wrote anything: Hydra makes it before the run begins."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it is not empty
            folder.rmdir()
            with suppress(ValueError):  # it is not below the working directory
                os.removedirs(folder.parent.relative_to(Path.cwd()))
        raise


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings without the line of ours that raised them, which says nothing to the person who trains."""
    import lightning  # noqa: F401 - sets the form of warnings where it is imported

    before = warnings.formatwarning
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    try:
        with warnings.catch_warnings():
            # A run that goes on does so in its own folder.
            warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty", UserWarning)
            yield
    finally:
        warnings.formatwarning = before


command = hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")(train)


def main() -> None:
    """Run the command; after a sweep, say what became of its jobs, however it ended."""
    sys.argv[1:] = quoted_templates(sys.argv[1:])
    # torch deprecates what lightning 2.6's _pytree still calls.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    hydra._internal.utils.run_and_report = lambda func: func()  # Hydra would print errors in a way of its own
    listen()
    error: BaseException | None = None
    try:
        refuse_dashes(sys.argv[1:])
        check_own_files(sys.argv[1:])
        command()
    except (Exception, Stopped, KeyboardInterrupt) as ended:
        error = ended
    finally:
        everything_went_well = report_sweep()
    if error is not None:
        ignore_signals()
        end_with(error)
    if not everything_went_well:
        sys.exit(1)


if __name__ == "__main__":
    # Workers of a sweep find `train` by the name of its module, which is not `__main__` there.
    from lightning_coba.cli.train import main as named_main

    named_main()
