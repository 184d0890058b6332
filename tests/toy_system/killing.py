import os
import signal
import time

import lightning as L


class KillAt(L.Callback):
    """Kill the process as a power cut would: after a step of a phase, before the next."""

    def __init__(self, phase, step):
        self.phase, self.step = phase, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and trainer.default_root_dir.endswith(self.phase):
            os.kill(os.getpid(), signal.SIGKILL)


class Slow(L.Callback):
    """Leave time between two batches for another process to strike there."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(0.15)
