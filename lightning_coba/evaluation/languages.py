"""The languages whose programs are run: what their files hold, the command that runs them, what it needs."""

import importlib.resources
from dataclasses import dataclass, field

from lightning_coba.evaluation.sandbox import Limits, python_command


@dataclass(frozen=True)
class Language:
    """How programs of a language are made and run.

    Attributes:
        files: Template by file name. ``$answer`` is the code to test, ``$test`` tests it, and ``$proof`` stands in a
            string literal that is printed behind the last test and nowhere else, even if the answer ends the program.
        command: The command that runs the files.
        needs: Programs that must be installed.
        limits: What the command may use; compilers and virtual machines need more than a script.
    """

    files: dict[str, str]
    command: list[str]
    needs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def _main(file: str) -> dict[str, str]:
    """Return a program of ours that runs the test, as a template by its name."""
    return {file: (importlib.resources.files(__package__) / file).read_text(encoding="utf-8")}


LANGUAGES = {
    "python": Language({"main.py": "$answer\n$test\nprint('$proof')\n"}, python_command("main.py")),
    "javascript": Language(
        {"main.js": "$answer\n$test\nconsole.log('$proof');\n"},
        ["node", "--max-old-space-size=256", "main.js"],
        ("node",),
        Limits(memory_mb=8192, processes=32),
    ),
    "java": Language(
        {"Main.java": "$answer\n$test\n", **_main("AllPassed.java")},
        [
            "/bin/sh", "-c",
            "javac -J-Xmx256m -J-XX:-UsePerfData Main.java AllPassed.java "
            "&& exec java -Xmx256m -XX:-UsePerfData AllPassed",
        ],
        ("javac", "java"),
        Limits(seconds=40, memory_mb=8192, processes=64, open_files=256),
    ),
    "cpp": Language(
        {"main.cpp": "$answer\n$test\n", **_main("all_passed.cpp")},
        [
            "/bin/sh", "-c",
            "g++ -std=c++17 -O1 -w -Wl,--wrap=main -o main main.cpp all_passed.cpp && exec ./main",
        ],
        ("g++",),
        Limits(seconds=40, memory_mb=1024, disk_mb=32),
    ),
}  # fmt: skip
