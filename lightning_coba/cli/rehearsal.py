"""Time a few steps of a run in a process of its own, whose memory is that of a run and which may run out of it."""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_coba.errors import UserError

if TYPE_CHECKING:
    from lightning_coba.inspection.forecast import Measured

#: Groups of the configuration that say what a step does.
GROUPS = ("data", "model", "peft", "optimizer", "scheduler", "balancer", "system", "trainer")
#: Settings of the Trainer that say what a step does; the others say how long a run is, or what it writes.
_OF_A_STEP = (
    "accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "deterministic", "benchmark",
)  # fmt: skip


class NotTimedError(UserError):
    """A run cannot be timed: its model is not there, or memory does not suffice."""


class OutOfMemoryError(NotTimedError):
    """The rehearsal was ended for lack of memory."""


def rehearsed(settings: Mapping[str, Any], is_own: bool = True) -> "Measured":
    """Return what a few steps of a run take.

    Args:
        settings: The resolved configuration, of `GROUPS` and ``seed``.
        is_own: Whether the configuration is the user's own: it may name anything to build, and models with code.

    Raises:
        NotTimedError: They cannot be run; the message says why.
    """
    from lightning_coba.inspection.forecast import Measured

    trainer = settings["trainer"]
    if trainer.get("devices", 1) not in (1, "1", "auto") or trainer.get("strategy", "auto") != "auto":
        raise NotTimedError(
            "only runs on one device are timed.", "Time it with trainer.devices=1 trainer.strategy=auto."
        )
    if not is_own:
        raise NotTimedError("an experiment is timed only where it is trusted.", "If it is your own, add --trust-code.")
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "settings.json"), Path(folder, "result.json")
        given.write_text(json.dumps({"began": time.time(), **settings}))
        command = [sys.executable, "-m", __name__, str(given), str(result)]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        told = json.loads(result.read_text()) if result.is_file() else {}
    if "measured" in told:
        return Measured(**told["measured"])
    if told.get("out_of_memory") or ended.returncode == -9:
        raise OutOfMemoryError(
            "a few steps were killed, most likely for lack of memory.", "Lower data.batch_size or data.max_length."
        )
    last = (ended.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    raise NotTimedError(told.get("error") or f"its rehearsal ended with {last!r}.", "")


def _measured(settings: Mapping[str, Any]) -> "Measured":
    import lightning as L

    from lightning_coba.cli.system import build_system
    from lightning_coba.inspection.rehearsal import rehearse
    from lightning_coba.runs.instantiation import built

    L.seed_everything(settings["seed"], verbose=False)
    balancer, every = settings["balancer"] or {}, 1.0
    if (n := balancer.get("every_n_steps") or 0) > 1 or balancer.get("max_overhead"):
        # Its records fall between the steps that are timed: a record reads a batch forward, a third of a step.
        every, balancer = 1 + (balancer.get("max_overhead") or 1 / (3 * n)), {}
    kept = {key: settings["trainer"][key] for key in _OF_A_STEP if key in settings["trainer"]}
    own = {
        "max_epochs": 1, "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": -1,
        "log_every_n_steps": 10, "callbacks": [balancer] if balancer else [],
    }  # fmt: skip
    trainer = built({"_target_": "lightning.Trainer"} | kept | own, "trainer")
    data, module = built(settings["data"], "data"), build_system(settings)
    data.prepare_for(module)
    data.prepare_data()
    started = time.time() - settings["began"]
    measured = rehearse(module, data, trainer, settings["trainer"].get("limit_val_batches", 1.0))
    return measured._replace(start_seconds=started, step_seconds=measured.step_seconds * every)


def main() -> None:
    """Run the rehearsal of the settings in one file, and write what it took to another."""
    import torch

    from lightning_coba.cli.errors import one_line

    given, result = map(Path, sys.argv[1:])
    warnings.simplefilter("ignore")
    told: dict[str, Any]
    try:
        told = {"measured": _measured(json.loads(given.read_text()))._asdict()}
    except (MemoryError, torch.OutOfMemoryError):
        told = {"out_of_memory": True}
    except Exception as error:
        told = {"out_of_memory": True} if "can't allocate memory" in str(error) else {"error": one_line(error)}
    result.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
