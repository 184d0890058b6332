"""Children of this process that have imported what it has: a run starts in a moment, and can be killed at any."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path


class Child:
    """Call a function in a forked process, which ends with it.

    Args:
        function: is called; an exception makes the exit status 1.
        log: file that gets what the process prints.
    """

    def __init__(self, function, log: Path) -> None:
        self.log = log
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _call_and_exit(function, log)

    def kill_after(self, seconds: float) -> bool:
        """Kill the process after some time; return whether it was still at work."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if os.waitpid(self.pid, os.WNOHANG) != (0, 0):
                return False
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(self.pid, 0)[1])

    def finish(self) -> None:
        """Wait for its end; what it printed is the error if it failed."""
        status = os.waitpid(self.pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0, self.log.read_text(errors="replace")[-4000:]


def _call_and_exit(function, log: Path) -> None:
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # pytest has put its own there
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # nothing of pytest's may run here
