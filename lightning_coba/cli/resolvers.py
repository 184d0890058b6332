"""What the configuration may compute: ``${name:arguments}`` in a YAML file."""

import hashlib
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_coba.cli.run_name import checked_name
from lightning_coba.data.reading.root import suite_of
from lightning_coba.errors import UserError
from lightning_coba.runs.files import RunFiles

#: File systems allow 255 bytes in a name.
LONGEST_NAME = 200


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("fastest_precision", _fastest_precision, replace=True)
    OmegaConf.register_new_resolver("epochs_unless_steps", _epochs_unless_steps, replace=True)
    OmegaConf.register_new_resolver("choice", _choice, replace=True)
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
    OmegaConf.register_new_resolver("run_folder", checked_name, replace=True)
    OmegaConf.register_new_resolver("suite", _suite, replace=True)
    OmegaConf.register_new_resolver("run_file", _run_file, replace=True)
    OmegaConf.register_new_resolver("as_folder", _as_folder, replace=True)
    OmegaConf.register_new_resolver("jobs_at_once", _jobs_at_once, replace=True)
    OmegaConf.register_new_resolver("each_task", _each_task, replace=True)


def _fastest_precision() -> str:
    from lightning_coba.models.precision import fastest_precision  # imports torch, which --help does without

    return fastest_precision()


def _epochs_unless_steps(epochs: int, max_steps: Any) -> int:
    """Return the number of epochs; no limit where a number of steps says how long a run is."""
    return -1 if isinstance(max_steps, int) and max_steps > 0 else epochs


def _hydra(root: DictConfig) -> Any:
    # A sweep asks for its folder before Hydra publishes its own settings, and a job's configuration lacks them.
    return root.hydra if "hydra" in root else HydraConfig.get()


def _choice(group: str, *, _root_: DictConfig) -> str:
    """Return the option chosen for a group."""
    return _hydra(_root_).runtime.choices[group]


def _run_name(suite: str, *, _root_: DictConfig) -> str:
    """Return what tells a run from others: its data, its system unless that is multitask, its balancer, its seed.

    In a sweep only the data: its jobs share a folder, which must not be named after one of them.
    """
    if _hydra(_root_).mode == RunMode.MULTIRUN:
        return suite
    system = _choice("system", _root_=_root_)
    balancer = _choice("balancer", _root_=_root_) if _root_.balancer else None
    named = [None if system in ("multitask", suite) else system, balancer, f"seed{_root_.seed}"]
    return "-".join([suite, *(part for part in named if part)])


def _suite(*, _root_: DictConfig) -> str:
    """Return what the tasks are called together: the last part of their folder, or the chosen option."""
    root = OmegaConf.select(_root_, "data.root")  # a list of several is one of OmegaConf's, which is a sequence too
    choice = _choice("data", _root_=_root_)
    return suite_of(root) if root else _choice("system", _root_=_root_) if choice == "none" else choice


def _run_file(name: str = "", phase: str | None = None, *, _root_: DictConfig) -> str:
    """Return the path of a file of the run, by its name in `RunFiles`; of the phase under way, or of another one.

    Without a name it is the folder itself: ``${run_file:"",search}`` is that of the phase `search`.
    """
    hydra = HydraConfig.get()
    # Where the configuration is only shown, no folder has been made.
    files = RunFiles(
        Path(hydra.run.dir if OmegaConf.is_missing(hydra.runtime, "output_dir") else hydra.runtime.output_dir)
    )
    if within := phase or _root_.get("phase"):
        if within not in (_root_.get("phases") or [within]):
            raise UserError(f"there is no phase {within!r}.", f"The phases are: {', '.join(_root_.phases)}.")
        files = files.phase(within)
    path = getattr(files, name or "folder", None)
    if not isinstance(path, Path):
        legal = [key for key in dir(RunFiles) if isinstance(getattr(RunFiles, key), Path)]
        raise UserError(f"a run has no file {name!r}.", f"There are: {', '.join(legal)}.")
    return str(path)


def _as_folder(overrides: str) -> str:
    """Return overrides as one folder's name.

    Paths in them would nest folders, brackets, quotes, line breaks and the like would have to be quoted in a shell, and
    long names fit no file system.
    """
    name = re.sub(r"""[][{}()<>'"`$&;|*?!#\s]""", "", re.sub(r"[/\\]", "_", overrides))
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(overrides.encode(), digest_size=4).hexdigest()
    return name.encode()[:LONGEST_NAME].decode(errors="ignore") + "-" + digest


def _jobs_at_once(accelerator: str) -> int:
    """Return how many jobs of a sweep run at a time: one a core (-1), but one where they would share a GPU."""
    from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

    gpu = CUDAAccelerator.is_available() or MPSAccelerator.is_available()
    return 1 if accelerator != "cpu" and gpu else -1


def _each_task(*, _root_: DictConfig) -> str:
    """Return the choices of `data.only` that train each task by itself: ``['a'],['b']``, as Hydra reads them."""
    data = instantiate(_root_.data, _convert_="all", only=None)
    return ",".join(f"['{task}']" for task in data.task_names)
