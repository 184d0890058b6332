"""More that hostile programs try: privileges, other programs, the kernel; `test_sandbox.py` has the rest."""

import os
import platform
import socket
import threading
import time

import pytest

from lightning_coba.evaluation.sandbox import Limits, python_command, run_shut_in, why_not_isolated
from lightning_coba.evaluation.system_calls import system_call_filter

pytestmark = pytest.mark.skipif(why_not_isolated() is not None, reason=str(why_not_isolated()))
filtered = pytest.mark.skipif(system_call_filter() is None, reason=f"no filter of system calls on {platform.machine()}")


def run(source, **limits):
    return run_shut_in(python_command("main.py"), {"main.py": source}, Limits(**limits))


def attempts(*expressions, begin=""):
    """Return for each expression what it gives in the sandbox, or the name of its error."""
    source = (
        "import ctypes, fcntl, glob, os, resource, signal, socket, stat, subprocess, termios\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def call(number, *arguments):\n"
        "    return 'refused' if libc.syscall(number, *arguments) < 0 else 'done'\n" + begin + "\n"
    )
    for expression in expressions:
        source += f"try: print(({expression}))\nexcept Exception as error: print(type(error).__name__)\n"
    ended = run(source)
    assert ended.code == 0, ended.output
    return ended.output.splitlines()


def test_it_has_no_descriptor_of_the_process_that_started_it(tmp_path):
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        links = "sorted({os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in (0, 1, 2)})"
        left = "[n for n in range(3, 64) if os.path.exists(f'/proc/self/fd/{n}')]"
        assert attempts(links, left) == ["['/dev/null', 'pipe']", "[]"]


def test_it_reaches_no_device_and_no_terminal():
    assert attempts(
        "sorted(os.listdir('/dev'))",
        "os.mknod('/work/disk', 0o60666, os.makedev(8, 0))",
        "open('/dev/tty')",
        "fcntl.ioctl(0, termios.TIOCSTI, b'x')",
        "os.path.exists('/sys'), os.path.exists('/proc/kcore')",
    ) == ["['full', 'null', 'random', 'urandom', 'zero']", "PermissionError", "FileNotFoundError", "OSError",
          "(False, False)"]  # fmt: skip


def test_it_cannot_reach_abstract_sockets_of_this_machine():
    name = f"\0coba-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)  # it is there
        assert attempts(f"socket.socket(socket.AF_UNIX).connect({name!r})") == ["ConnectionRefusedError"]


def test_it_cannot_look_into_the_processes_that_hold_it():
    ptraced, root, secret, seen = attempts(
        "libc.ptrace(16, 1, 0, 0), libc.ptrace(16, os.getppid(), 0, 0)",
        "os.path.exists('/proc/1/root/etc/passwd') or os.path.exists('/proc/1/cwd/etc/passwd')",
        "b'PYTEST' in open('/proc/1/environ', 'rb').read()",
        "sum(name.isdigit() for name in os.listdir('/proc'))",
    )
    assert (ptraced, root) == ("(-1, -1)", "False")
    assert secret in ("False", "PermissionError")  # the first for users who are not root
    assert int(seen) <= 3


def test_programs_for_root_give_it_nothing():
    assert attempts(
        "libc.setuid(0)",
        "any(stat.S_ISUID & os.stat(p).st_mode for p in glob.glob('/usr/bin/*') if os.path.exists(p))",
        "subprocess.run(['su', '-c', 'true'], stdin=-3, capture_output=True).returncode == 0",
        "os.nice(-10)",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "resource.setrlimit(resource.RLIMIT_NPROC, (99999, 99999))",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))",
    ) == ["-1", "True", "False", "PermissionError", "ValueError", "ValueError", "PermissionError"]


def test_a_program_that_ignores_signals_ends_on_time():
    began = time.monotonic()
    ended = run(
        "import signal\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n  except Exception: pass\n"
        "while True: pass",
        seconds=1,
    )
    assert ended.verdict == "time"
    assert time.monotonic() - began < 60


def test_programs_beside_each_other_do_not_meet():
    slow = "import time\nopen('mine', 'w').write('hush')\nfor _ in range(40): time.sleep(0.05)"
    beside = threading.Thread(target=run, args=(slow,))
    beside.start()
    time.sleep(0.5)
    seen = attempts(
        "os.listdir('/tmp'), os.listdir('/work')",
        "[p for p in os.listdir('/proc') if p.isdigit() and b'mine' in open(f'/proc/{p}/cmdline', 'rb').read()]",
        "[p for p in os.listdir('/') if p.startswith('coba')]",
    )
    beside.join()
    assert seen == ["(['main.py'], ['main.py'])", "[]", "[]"]


def test_links_in_its_folder_lead_nowhere_and_are_not_followed_from_outside(tmp_path):
    (tmp_path / "secret").write_text("hush")
    target = str(tmp_path / "secret")
    assert attempts(f"os.symlink({target!r}, 'link'), os.path.exists('link')", "open('link')") == [
        "(None, False)",
        "FileNotFoundError",
    ]
    assert (tmp_path / "secret").read_text() == "hush"


def test_it_changes_nothing_of_the_kernel():
    places = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches")
    seen = attempts(*(f"os.close(os.open({place!r}, os.O_WRONLY))" for place in places), "os.uname().nodename")
    assert set(seen[:-1]) <= {"PermissionError", "FileNotFoundError", "OSError"}
    assert seen[-1] == "sandbox"


@filtered
def test_it_makes_no_namespace_in_which_it_would_have_privileges():
    assert attempts(
        "libc.unshare(0x10000000), ctypes.get_errno()",
        "libc.unshare(0x10000000 | 0x20000), ctypes.get_errno()",
        "libc.setns(os.open('/proc/self/ns/net', 0), 0), ctypes.get_errno()",
        "call({'x86_64': 56}.get(os.uname().machine, 220), 0x10000000 | 17, 0, 0, 0, 0)",
        "call(435, 0, 0)",
    ) == ["(-1, 1)", "(-1, 1)", "(-1, 1)", "refused", "refused"]


@filtered
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_it_reads_no_key_that_the_kernel_keeps_and_no_memory_goes_uncounted():
    keyctl, add_key, memfd, shmget, bpf, io_uring = 250, 248, 319, 29, 321, 425
    assert (
        attempts(
            f"call({keyctl}, 0, -3, 0)",  # the keyring of the session
            f"call({keyctl}, 0, -4, 1)",  # that of the user
            f"call({add_key}, b'user', b'name', b'x', 1, -4)",
            f"call({memfd}, b'name', 0)",
            f"call({shmget}, 0, 4096, 0o1666)",
            f"call({bpf}, 0, 0, 0)",
            f"call({io_uring}, 1, 0)",
            f"call({0x40000000 + keyctl}, 0, -3, 0)",  # by its number among those of x32
        )
        == ["refused"] * 8
    )


@filtered
def test_it_has_no_socket_to_the_host_of_a_virtual_machine():
    assert attempts(
        "socket.socket(socket.AF_VSOCK)",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "socket.socket(socket.AF_INET).close(), socket.socket(socket.AF_UNIX).close()",
    ) == ["OSError", "OSError", "(None, None)"]


@filtered
def test_threads_and_processes_work_under_the_filter():
    threads = "import threading\nfound = []\nt = threading.Thread(target=found.append, args=(1,))\nt.start()\nt.join()"
    seen = attempts(
        "found", "subprocess.run(['true']).returncode", "os.waitpid(os.fork() or os._exit(3), 0)[1]", begin=threads
    )
    assert seen == ["[1]", "0", "768"]
