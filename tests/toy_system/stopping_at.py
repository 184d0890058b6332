import os
import signal

import lightning as L


class SignalAt(L.Callback):
    """Send a signal to this process in one of the Trainer's hooks, at an optimizer step of a phase."""

    def __init__(self, hook, step=0, phase="", number=signal.SIGTERM, rank=0, times=1):
        self.step, self.phase, self.number, self.rank, self.times = step, phase, number, rank, times
        setattr(self, hook, self._send)

    def _send(self, trainer, *_):
        here = trainer.global_step >= self.step and trainer.default_root_dir.endswith(self.phase)
        if here and not trainer.sanity_checking and trainer.global_rank == self.rank and self.times:
            self.times -= 1
            os.kill(os.getpid(), self.number)
