"""Hostile programs: what they try, and what holds them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_coba.evaluation import sandbox
from lightning_coba.evaluation.sandbox import Limits, SandboxError, python_command, run_shut_in, why_not_isolated

pytestmark = pytest.mark.skipif(why_not_isolated() is not None, reason=str(why_not_isolated()))


def run(source, **limits):
    return run_shut_in(python_command("main.py"), {"main.py": source}, Limits(**limits))


def test_a_program_that_behaves_is_not_hindered():
    ended = run("import json, math, random, re, collections\nopen('x', 'w').write('y')\nprint(open('x').read(), 'ä')")
    assert (ended.verdict, ended.code, ended.output) == ("ended", 0, "y ä\n")
    assert run("raise SystemExit(3)").code == 3
    assert run("import os\nos.abort()").code == 128 + 6


def test_endless_loops_and_sleep_end():
    for source in ("while True: pass", "import time\ntime.sleep(100)"):
        ended = run(source, seconds=1)
        assert (ended.verdict, ended.code) == ("time", None)


def test_memory_is_bounded():
    ended = run("x = []\nwhile True: x.append(bytearray(2**24))", memory_mb=256)
    assert ended.code == 1
    assert "MemoryError" in ended.output


def test_where_the_machine_has_no_memory_left_it_is_ended_first():
    assert run("print(open('/proc/self/oom_score_adj').read())").output.split() == ["1000"]


def test_a_fork_bomb_is_bounded_and_nothing_of_it_is_left():
    def bomb(source, **limits):
        return run_shut_in(python_command("bomb.py"), {"bomb.py": source}, Limits(**limits))

    count = "import os, time\nn = 0\ntry:\n  while True:\n    if not os.fork(): time.sleep(100)\n    n += 1\n"
    ended = bomb(count + "except OSError: print(n)", processes=8)
    assert ended.code == 0
    assert 0 < int(ended.output) < 8
    endless = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert bomb(endless, seconds=1, processes=8).verdict == "time"
    assert not [line for line in _command_lines() if b"bomb.py" in line]
    # What detaches itself is in the namespace all the same.
    bomb("import os, time\nif not os.fork():\n  os.setsid()\n  if not os.fork(): time.sleep(12345)")
    assert not [line for line in _command_lines() if b"bomb.py" in line]


def test_nothing_outlives_an_evaluation_that_is_killed(tmp_path):
    source = (
        "from lightning_coba.evaluation.sandbox import *\n"
        "run_shut_in(python_command('orphan.py'), {'orphan.py': 'import time; time.sleep(100)'}, Limits(seconds=100))"
    )

    def running():
        command = b"\0".join(os.fsencode(part) for part in python_command("orphan.py"))
        return [line for line in _command_lines() if line.startswith(command)]

    evaluation = subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_until(running)
    evaluation.kill()
    evaluation.wait()
    wait_until(lambda: not running())


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _command_lines():
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def test_output_is_cut():
    ended = run("while True: print('x' * 1000)", output_kb=8)
    assert ended.verdict == "output"
    assert len(ended.output) == 8 * 1024


def test_disk_is_bounded_in_one_file_and_in_many():
    assert "No space left" in run("with open('a', 'wb') as f:\n  while True: f.write(b'x' * 2**20)", disk_mb=4).output
    many = "for i in range(100):\n  with open(str(i), 'wb') as f: f.write(b'x' * 2**20)"
    assert "No space left" in run(many, disk_mb=4).output
    assert "No space left" in run("for i in range(10**5): open(str(i), 'w').close()").output  # of files


def test_there_is_no_network_not_even_to_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            server.accept()[0].close()  # it is there
        ended = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
        assert ended.code == 1
        assert "ConnectionRefusedError" in ended.output  # of a loopback device of its own
        with pytest.raises(TimeoutError):
            server.accept()
    assert "Network is unreachable" in run("import socket\nsocket.create_connection(('192.0.2.1', 80), 2)").output
    assert run("import socket\nprint([name for _, name in socket.if_nameindex()])").output.strip() == "['lo']"


def test_it_sees_neither_the_environment_nor_the_files_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("COBA_SECRET", "hush")
    (tmp_path / "secret").write_text("hush")
    source = (
        "import glob, os\n"
        f"print(os.path.exists({str(tmp_path)!r}), os.listdir('/work'), sorted(os.environ))\n"
        "for file in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: assert b'hush' not in open(file, 'rb').read(), file\n"
        "    except PermissionError: pass\n"
        "print(os.getuid() == 0, os.listdir('/home') if os.path.exists('/home') else [])\n"
    )
    ended = run(source)
    assert ended.output.splitlines() == [
        "False ['main.py'] ['HOME', 'LANG', 'NODE_PATH', 'PATH']",
        f"{False} []",
    ]


@pytest.mark.parametrize("path", ["/usr/x", "/x", "/files/x", "/etc/x", "/dev/x", "/proc/sys/kernel/hostname"])
def test_it_writes_nowhere_else(path):
    ended = run(f"open({path!r}, 'w')")
    assert ended.code == 1
    assert "Read-only" in ended.output or "Permission" in ended.output or "No such file" in ended.output
    assert not os.path.exists("/x")


def test_all_that_is_shown_is_mounted_read_only():
    source = (
        "for line in open('/proc/self/mounts'):\n"
        "    place, options = line.split()[1], line.split()[3]\n"
        "    if 'ro' not in options.split(',') and not place.startswith(('/dev/', '/proc')): print(place)\n"
    )
    assert run(source).output.split() == ["/work"]


def test_it_cannot_end_what_started_it():
    source = (
        "import os, signal\n"
        "for number, sent in ((os.getppid(), signal.SIGTERM), (os.getppid(), signal.SIGKILL), (-1, signal.SIGKILL)):\n"
        "    try: os.kill(number, sent)\n"
        "    except OSError: pass\n"
        f"try: os.kill({os.getpid()}, signal.SIGKILL)\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    assert run(source).output == "ProcessLookupError\n"


def test_it_has_no_privilege_to_undo_the_walls():
    source = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "print(libc.mount(b'none', b'/work', b'tmpfs', 0, None), libc.umount2(b'/work', 2))\n"
        "print(libc.sethostname(b'x', 1))\n"
        "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])\n"
        "print(open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])\n"
    )
    assert run(source).output.split() == ["-1", "-1", "-1", "0000000000000000", "1"]


def test_what_cannot_be_started_is_no_success():
    assert run_shut_in(["/nowhere/python"], {}).code == 127


def test_where_it_cannot_be_shut_in_it_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "SHOWN", ())
    with pytest.raises(SandboxError, match=r"No sandbox can be set up on this machine \(bwrap: "):
        run("print(1)")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        run("print(1)")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whom no limit holds")
def test_root_runs_nothing_that_is_not_shut_in():
    with pytest.raises(SandboxError, match="root may write anywhere"):
        run_shut_in([sys.executable, "-c", "print(1)"], {}, isolate=False)


def test_without_a_sandbox_the_limits_hold(monkeypatch):
    monkeypatch.setattr(sandbox.os, "geteuid", lambda: 12345)
    monkeypatch.setenv("COBA_SECRET", "hush")

    def bare(source, **limits):
        return run_shut_in(python_command("main.py"), {"main.py": source}, Limits(**limits), isolate=False)

    assert bare("import os\nprint(os.listdir(), sorted(os.environ))").output == (
        "['main.py'] ['HOME', 'LANG', 'NODE_PATH', 'PATH']\n"
    )
    assert bare("print(open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])").output == "1\n"
    assert bare("while True: pass", seconds=1).verdict == "time"
    assert "MemoryError" in bare("bytearray(2**30)").output
    assert "File too large" in bare("open('a', 'wb').write(b'x' * 2**23)", disk_mb=4).output
    assert bare("import resource\nprint(resource.getrlimit(resource.RLIMIT_NPROC))").output == "(16, 16)\n"
    assert bare("import os\nos.abort()").code == 128 + 6
