"""Run a program that nobody has read, in a sandbox: bubblewrap hides the machine, util-linux sets the limits."""

import functools
import importlib.resources
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from lightning_coba.errors import WrongUseError
from lightning_coba.evaluation.system_calls import system_call_filter

Verdict = Literal["ended", "time", "output"]

#: What a program sees of the machine, read-only: compilers, interpreters and their libraries.
SHOWN = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache",
    "/etc/java-11-openjdk", "/etc/java-17-openjdk", "/etc/java-21-openjdk",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
#: Where the commands of programs are found.
PATH = "/usr/local/bin:/usr/bin:/bin"
#: Where JavaScript's packages are installed for all users.
NODE_PATH = "/usr/share/nodejs:/usr/lib/node_modules:/usr/local/lib/node_modules"
_NO_SANDBOX = ("setpriv", "--no-new-privs", "--pdeathsig=KILL")
_ENTERED = b"sandbox entered\n"
_ENTER = (importlib.resources.files(__package__) / "enter_sandbox.sh").read_text(encoding="utf-8")


class SandboxError(WrongUseError):
    """The program did not run, because its sandbox could not be set up."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        seconds: Wall-clock time, and processor time of each process.
        memory_mb: Address space of each process, in MiB.
        processes: Number of processes and threads at a time.
        disk_mb: Size of all its files together (without a sandbox: of the largest file), in MiB.
        output_kb: What it may print, in KiB; more ends it.
        open_files: Number of files that a process may have open.
    """

    seconds: float = 10
    memory_mb: int = 512
    processes: int = 16
    disk_mb: int = 16
    output_kb: int = 64
    open_files: int = 64


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        verdict: ``"ended"`` by itself, or stopped for its ``"time"`` or its ``"output"``.
        code: Exit code, 128 + its number for a signal; None where the program was stopped.
        output: What it printed, standard output and errors together, cut at the limit.
    """

    verdict: Verdict
    code: int | None
    output: str


def run_shut_in(
    command: Sequence[str], files: Mapping[str, str], limits: Limits = DEFAULT_LIMITS, isolate: bool = True
) -> Ended:
    """Run a program in a sandbox, with limits.

    Args:
        command: The program, a path or a name that is found in `PATH`, and its arguments; it starts in a folder that
            holds ``files``.
        files: Text by file name.
        limits: What the program may use.
        isolate: False leaves out the sandbox: the program then has the user's network and files, and the limits alone.

    Raises:
        SandboxError: It could not be set up; or ``isolate`` is False for root, whom no limit holds.
    """
    for tool, package in [("bwrap", "bubblewrap")] * isolate + [("prlimit", "util-linux"), ("setpriv", "util-linux")]:
        if shutil.which(tool) is None:
            raise SandboxError(
                f"{tool} is not installed.", f"Install it with `apt-get install {package}` (Linux only)."
            )
    if not isolate and os.geteuid() == 0:
        raise SandboxError(
            "Programs are run as root only in a sandbox, because root may write anywhere.",
            "Run the evaluation as another user.",
        )
    with tempfile.TemporaryDirectory(prefix="coba-code-") as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8", errors="replace")
        home = "/work" if isolate else folder
        with (
            _filter_to_read() as calls,
            subprocess.Popen(
                [*(_sandbox(folder, limits, calls) if isolate else _NO_SANDBOX), *_limits(limits), *command],
                cwd=folder,
                env={"PATH": PATH, "HOME": home, "LANG": "C.UTF-8", "NODE_PATH": NODE_PATH},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=calls,
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            try:
                verdict, printed = _watch(process.stdout, limits)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the end of bubblewrap is the end of everything inside
            if isolate:
                process.stdout.read()  # until the last process inside is gone
    if isolate and verdict == "ended" and not printed.startswith(_ENTERED):
        reason = printed.decode("utf-8", "replace").strip() or "bubblewrap gave no reason"
        raise SandboxError(
            f"No sandbox can be set up on this machine ({reason}).",
            "Allow user namespaces, or run them somewhere else.",
        )
    output = printed.removeprefix(_ENTERED)[: limits.output_kb * 1024].decode("utf-8", "replace")
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Ended(verdict, code if verdict == "ended" else None, output)


@functools.cache
def why_not_isolated() -> str | None:
    """Return why programs cannot be shut in here, or None where they can be."""
    try:
        ended = run_shut_in([_interpreter(), "-I", "-S", "-c", "print(6 * 7)"], {})
    except SandboxError as error:
        return str(error)
    return None if ended.output.strip() == "42" else f"a first program printed {ended.output!r} instead of 42."


def python_command(file: str) -> list[str]:
    """Return the command that runs a file with this Python, its standard library and no package."""
    return [_interpreter(), "-I", "-S", file]


def _interpreter() -> str:
    """Return the interpreter itself: that of a virtual environment is a link into folders that are not shown."""
    return os.path.realpath(sys.executable)


@contextmanager
def _filter_to_read() -> Iterator[list[int]]:
    """Give the descriptor from which bubblewrap reads the filter of system calls; none where there is no filter."""
    program = system_call_filter()
    if program is None:
        yield []
        return
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as pipe:
            pipe.write(program)  # far less than a pipe holds
        yield [reading]
    finally:
        os.close(reading)


def _sandbox(folder: str, limits: Limits, calls: Sequence[int]) -> list[str]:
    """Return what comes in front of a command to shut it in and to take every privilege from it."""
    walls = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    walls += ["--hostname", "sandbox", *(word for number in calls for word in ("--seccomp", str(number)))]
    walls += ["--die-with-parent", "--new-session", "--proc", "/proc", "--symlink", "work", "/tmp", "--dir", "/work"]
    for parent in ("/dev", "/etc", *map(str, reversed(Path(sys.base_prefix).parents))):
        walls += ["--dir", parent]  # else bubblewrap makes it a folder that only root may enter
    for path in (*SHOWN, sys.base_prefix):
        walls += ["--ro-bind-try", path, path]
    for path in DEVICES:
        walls += ["--dev-bind", path, path]
    walls += ["--ro-bind", folder, "/files", "--remount-ro", "/"]
    drop = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all"]
    if os.geteuid() == 0:
        # A user that nobody is: its processes are counted apart from those of the programs beside it.
        number = 2**30 + secrets.randbelow(2**20)
        drop += [f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    else:
        # The user namespace counts the processes, and lets `enter_sandbox.sh` mount.
        walls += ["--unshare-user", "--cap-add", "CAP_SYS_ADMIN"]
    return ["bwrap", *walls, "/bin/sh", "-c", _ENTER, "sh", str(limits.disk_mb), *drop]


def _limits(limits: Limits) -> list[str]:
    """Return what comes in front of a command to limit each of its processes."""
    return [
        "prlimit",
        f"--cpu={max(1, round(limits.seconds))}",
        f"--as={limits.memory_mb * 2**20}",
        f"--fsize={limits.disk_mb * 2**20}",
        f"--nproc={limits.processes}",
        f"--nofile={limits.open_files}",
        "--core=0",
    ]


def _watch(stream: IO[bytes], limits: Limits) -> tuple[Verdict, bytes]:
    """Read what is printed until the end, or until too much time or output."""
    printed = b""
    deadline = time.monotonic() + limits.seconds
    while len(printed) <= limits.output_kb * 1024 + len(_ENTERED):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            return "time", printed
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            return "ended", printed
        printed += chunk
    return "output", printed
