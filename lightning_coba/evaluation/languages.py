"""The languages whose programs are run: what their files hold, the command that runs them, what it needs."""

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


_JAVA_MAIN = """
public class AllPassed {
  public static void main(String[] arguments) throws Throwable {
    Main.main(arguments);
    System.out.println("$proof");
  }
}
"""

# The linker puts this main in front of that of the test, which neither exit() nor an exception returns from.
_CPP_MAIN = """
#include <cstdio>
extern "C" int __real_main(int, char**);
extern "C" int __wrap_main(int count, char** arguments) {
  int code = __real_main(count, arguments);
  std::puts("$proof");
  return code;
}
"""

LANGUAGES = {
    "python": Language({"main.py": "$answer\n$test\nprint('$proof')\n"}, python_command("main.py")),
    "javascript": Language(
        {"main.js": "$answer\n$test\nconsole.log('$proof');\n"},
        ["node", "--max-old-space-size=256", "main.js"],
        ("node",),
        Limits(memory_mb=8192, processes=32),
    ),
    "java": Language(
        {"Main.java": "$answer\n$test\n", "AllPassed.java": _JAVA_MAIN},
        [
            "/bin/sh", "-c",
            "javac -J-Xmx256m -J-XX:-UsePerfData Main.java AllPassed.java "
            "&& exec java -Xmx256m -XX:-UsePerfData AllPassed",
        ],
        ("javac", "java"),
        Limits(seconds=40, memory_mb=8192, processes=64, open_files=256),
    ),
    "cpp": Language(
        {"main.cpp": "$answer\n$test\n", "all_passed.cpp": _CPP_MAIN},
        [
            "/bin/sh", "-c",
            "g++ -std=c++17 -O1 -w -Wl,--wrap=main -o main main.cpp all_passed.cpp && exec ./main",
        ],
        ("g++",),
        Limits(seconds=40, memory_mb=1024, disk_mb=32),
    ),
}  # fmt: skip
