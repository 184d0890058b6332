"""A filter of system calls for the sandbox, in the form that bubblewrap hands to the kernel (seccomp).

The namespaces and limits of the sandbox leave some ways out: keys of the user that the kernel keeps for the session,
sockets to the host of a virtual machine, memory that no limit counts, and new user namespaces, in which a program has
privileges over much of the kernel again. No program that answers a question needs them.
"""

import errno
import platform
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple


class _Machine(NamedTuple):
    """What the kernel calls a machine (AUDIT_ARCH_*), and the numbers of system calls on it."""

    audit: int
    refused: tuple[int, ...]
    clone: int
    socket: int


#: add_key, request_key, keyctl; unshare, setns; memfd_create, memfd_secret, shmget; ptrace, process_vm_readv and
#: process_vm_writev; bpf, perf_event_open, userfaultfd, io_uring_setup.
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E, (248, 249, 250, 272, 308, 319, 447, 29, 101, 310, 311, 321, 298, 323, 425), clone=56, socket=41
    ),
    "aarch64": _Machine(
        0xC00000B7, (217, 218, 219, 97, 268, 279, 447, 194, 117, 270, 271, 280, 241, 282, 425), clone=220, socket=198
    ),
}
_CLONE3 = 435  # its flags lie in memory, where a filter cannot look; without it, libraries use clone
_X32 = 0x40000000  # a second set of numbers on x86_64 begins here
_NAMESPACES = 0x7E020000  # the flags of clone that make any
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)

_NUMBER, _AUDIT, _FIRST_ARGUMENT = 0, 4, 16  # offsets in what the filter is shown
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def system_call_filter() -> bytes | None:
    """Return the filter for this machine; None for processors whose numbers are not known here."""
    machine = _MACHINES.get(platform.machine())
    return None if machine is None else b"".join(_program(machine))


def _program(machine: _Machine) -> Iterator[bytes]:
    yield _step(_LOAD, _AUDIT)
    yield _step(_EQUAL, machine.audit, 1, 0)
    yield _refuse(errno.ENOSYS)  # calls of 32 bits, which have other numbers
    yield _step(_LOAD, _NUMBER)
    yield from (_step(_AT_LEAST, _X32, 0, 1), _refuse(errno.ENOSYS))
    yield from (_step(_EQUAL, _CLONE3, 0, 1), _refuse(errno.ENOSYS))
    for number in machine.refused:
        yield from (_step(_EQUAL, number, 0, 1), _refuse(errno.EPERM))
    yield _step(_EQUAL, machine.clone, 0, 4)
    yield _step(_LOAD, _FIRST_ARGUMENT)
    yield from (_step(_ANY_BIT, _NAMESPACES, 0, 1), _refuse(errno.EPERM), _step(_RETURN, _ALLOW))
    yield _step(_EQUAL, machine.socket, 0, 2 + len(_FAMILIES))
    yield _step(_LOAD, _FIRST_ARGUMENT)
    for place, family in enumerate(_FAMILIES):
        yield _step(_EQUAL, family, len(_FAMILIES) - place, 0)
    yield from (_refuse(errno.EAFNOSUPPORT), _step(_RETURN, _ALLOW))


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return an instruction; the last two say how many instructions to leave out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _ERROR | error)
