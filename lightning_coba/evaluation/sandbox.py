"""Run a program that nobody has read: shut in, with little time, memory and disk, and without the network."""

import functools
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["ended", "time", "output"]

MEGABYTE = 2**20
#: What a program sees of the machine, read-only: compilers, interpreters and their libraries.
SHOWN = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache",
    "/etc/java-17-openjdk", "/etc/java-21-openjdk", "/etc/java-11-openjdk",
)  # fmt: skip
#: Where JavaScript's packages are installed for all users.
NODE_PATH = "/usr/share/nodejs:/usr/lib/node_modules:/usr/local/lib/node_modules"
_CHILD = Path(__file__).with_name("sandbox_child.py")


class SandboxError(RuntimeError):
    """The program could not be shut in, so it did not run."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        seconds: of wall clock, and of processor time for each of its processes.
        memory_mb: address space of each process, in MiB.
        processes: processes and threads at a time.
        disk_mb: all files together (isolated), and the largest file, in MiB.
        output_kb: what it may print, in KiB; more ends it.
        open_files: files a process may have open.
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
        code: its exit code, negative for a signal; None where it was stopped.
        output: what it printed, standard output and errors together, cut.
        seconds: of wall clock.
    """

    verdict: Verdict
    code: int | None
    output: str
    seconds: float


def run_shut_in(
    command: Sequence[str], files: Mapping[str, str], limits: Limits = DEFAULT_LIMITS, isolate: bool = True
) -> Ended:
    """Run a program in namespaces of its own, with limits.

    Args:
        command: an absolute path and its arguments; the program starts in a folder of its own.
        files: name -> text, written to that folder before.
        limits: see `Limits`.
        isolate: False leaves out the namespaces: network and file system are then those of the user.

    Raises:
        SandboxError: it could not be shut in; or ``isolate`` is False for root, whom no limit holds.
    """
    if not isolate and os.geteuid() == 0:
        raise SandboxError(
            "Programs are run as root only where namespaces shut them in, because root may write anywhere. Run the "
            "evaluation as another user."
        )
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coba-code-") as folder:
        reader, writer = os.pipe()
        try:
            order = _order(command, files, limits, isolate, folder, writer)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                env={},
                start_new_session=True,
            )
            os.close(writer)
            verdict, output = _watch(process, json.dumps(order).encode(), limits, begin)
            report = _everything(reader)
        finally:
            os.close(reader)
    seconds = time.monotonic() - begin
    if "ready" not in report and verdict == "ended":
        reason = report.strip() or output.strip() or "it gave no reason"
        raise SandboxError(
            f"Programs cannot be shut in on this machine ({reason}). Allow user namespaces, or run them somewhere else."
        )
    codes = [line.removeprefix("exit ") for line in report.splitlines() if line.startswith("exit ")]
    code = int(codes[0]) if codes and verdict == "ended" else None
    return Ended(verdict, code, output, seconds)


@functools.cache
def why_not_isolated() -> str | None:
    """Return why programs cannot be shut in here, or None where they can be."""
    if not sys.platform.startswith("linux"):
        return f"namespaces are Linux's, and this is {sys.platform}"
    try:
        ended = run_shut_in([_interpreter(), "-I", "-S", "-c", "print(6 * 7)"], {})
    except SandboxError as error:
        return str(error)
    return None if ended.output.strip() == "42" else f"a first program printed {ended.output!r} instead of 42"


def python_command(file: str) -> list[str]:
    """Return the command that runs a file with this Python, its standard library and no package."""
    return [_interpreter(), "-I", "-S", file]


def _interpreter() -> str:
    """Return the interpreter itself: that of a virtual environment is a link into folders that are not shown."""
    return os.path.realpath(sys.executable)


def _order(
    command: Sequence[str], files: Mapping[str, str], limits: Limits, isolate: bool, folder: str, report: int
) -> dict[str, object]:
    work = "/work" if isolate else folder
    memory, disk = limits.memory_mb * MEGABYTE, limits.disk_mb * MEGABYTE
    return {
        "command": list(command),
        "files": dict(files),
        "environment": {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": work,
            "LANG": "C.UTF-8",
            "NODE_PATH": NODE_PATH,
        },
        "isolate": isolate,
        "folder": folder,
        "shown": [*SHOWN, *([] if sys.base_prefix.startswith("/usr/") else [sys.base_prefix])],
        "work_bytes": disk,
        # A user that nobody is: its processes are counted apart from those of the programs beside it.
        "user": 2**30 + secrets.randbelow(2**20),
        "report": report,
        "limits": {
            "CPU": max(1, round(limits.seconds)),
            "AS": memory,
            "FSIZE": disk,
            "NPROC": limits.processes,
            "NOFILE": limits.open_files,
            "CORE": 0,
        },
    }


def _watch(process: "subprocess.Popen[bytes]", order: bytes, limits: Limits, begin: float) -> tuple[Verdict, str]:
    """Read what is printed until the end, or until too much time or output; then end everything."""
    assert process.stdin is not None
    assert process.stdout is not None
    verdict: Verdict = "ended"
    output = b""
    with suppress(BrokenPipeError):  # then it says why on the report
        process.stdin.write(order)
        process.stdin.close()
    try:
        while True:
            left = begin + limits.seconds - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                verdict = "time"
                break
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            output += chunk
            if len(output) > limits.output_kb * 1024:
                verdict, output = "output", output[: limits.output_kb * 1024]
                break
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return verdict, output.decode("utf-8", "replace")


def _everything(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 65536).decode("utf-8", "replace")
    except BlockingIOError:
        return ""
