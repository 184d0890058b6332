"""The process that shuts itself in and then runs a program nobody has read; see `sandbox`.

It is started as a script of its own with the standard library alone, and reads one JSON order from its standard input.
It unshares the namespaces, makes a file system that holds the compilers and nothing of the user's, gives up every
privilege, and leaves a first process behind that ends with the program, whose end takes all others with it.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = 2 | 4 | 8  # nosuid, nodev and noexec of what is shown: an unprivileged process may not drop them
DETACH = 2
SET_DEATH_SIGNAL, SET_NO_NEW_PRIVILEGES = 1, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # the C library has no function for it
DEVICES = ("null", "zero", "full", "random", "urandom")
WORK = "/work"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options)), f"mount {target}")


def _unshare() -> None:
    """Leave the network, the mounts, the processes and the message queues of the machine; die first without memory."""
    with suppress(OSError):  # where /proc is hidden
        Path("/proc/self/oom_score_adj").write_text("1000")
    flags = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NETWORK
    user, group = os.geteuid(), os.getegid()
    if user:
        flags |= NEW_USER
    _check(_libc.unshare(flags), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _show(path: str, root: Path) -> None:
    """Let a file or folder of the machine be seen, read-only, at the same place."""
    place = root / path.lstrip("/")
    if os.path.islink(path):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.readlink(path))
        return
    if os.path.isdir(path):
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(path, str(place), None, BIND | RECURSIVE)
    kept = os.statvfs(path).f_flag & KEPT_FLAGS
    _mount("none", str(place), None, BIND | REMOUNT | READ_ONLY | NO_SUID | kept)


def _new_file_system(root: Path, shown: list[str], work_bytes: int) -> None:
    """Make a root of its own out of memory: what is shown of the machine, and one folder to write to."""
    _mount("none", "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", str(root), "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
    for path in shown:
        if os.path.lexists(path):
            _show(path, root)
    (root / "dev").mkdir()
    for name in DEVICES:
        (root / "dev" / name).touch()
        _mount(f"/dev/{name}", str(root / "dev" / name), None, BIND)
    (root / "proc").mkdir()
    with suppress(OSError):  # in containers that hide parts of /proc; few programs need it
        _mount("proc", str(root / "proc"), "proc", NO_SUID | NO_DEVICES)
    work = root / WORK.lstrip("/")
    work.mkdir()
    _mount("tmpfs", str(work), "tmpfs", NO_SUID | NO_DEVICES, f"size={work_bytes},nr_inodes=4096,mode=777")
    (root / "tmp").symlink_to(WORK)
    os.chdir(root)
    _check(_libc.syscall(PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", DETACH), "umount")
    _mount("none", "/", None, REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)
    os.chdir(WORK)


def _give_up_privileges(user: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _check(_libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    # After the change of user, which would undo it: whoever kills the process outside ends everything in here.
    _check(_libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")


def _run(order: dict[str, Any]) -> NoReturn:
    """Become the program."""
    for name, value in order["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    _check(_libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")  # where no namespace ends it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execve(order["command"][0], order["command"], order["environment"])


def _first_process(order: dict[str, Any], report: int) -> NoReturn:
    """Be process 1 of the new namespace: start the program, wait for it, and take everything along at the end."""
    for name, text in order["files"].items():
        Path(name).write_text(text, encoding="utf-8", errors="replace")
    os.write(report, b"ready\n")
    program = os.fork()
    if not program:
        os.setsid()
        _run(order)
    while True:
        ended, status = os.wait()
        if ended == program:
            os.write(report, f"exit {os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)


def main() -> None:
    """Carry out the order; say on the report's pipe how far it came."""
    order = json.load(sys.stdin)
    report = order["report"]
    os.set_inheritable(report, False)
    try:
        if not order["isolate"]:
            os.chdir(order["folder"])
            _give_up_privileges(order["user"])
            _first_process(order, report)
        _unshare()
        first = os.fork()  # the namespace of processes holds for children only
        if not first:
            _new_file_system(Path(order["folder"]), order["shown"], order["work_bytes"])
            _give_up_privileges(order["user"])
            _first_process(order, report)
        os.waitpid(first, 0)
    except Exception as error:
        os.write(report, f"error {error}\n".encode())
        os._exit(1)


if __name__ == "__main__":
    main()
