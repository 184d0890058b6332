"""Answers that are programs: right ones pass, wrong ones and cheats do not."""

from functools import partial

import pytest

from lightning_coba.evaluation import code_execution, programs, sandbox
from lightning_coba.evaluation.choice import TaskPlan
from lightning_coba.evaluation.code_execution import isolation, passes, run_tests
from lightning_coba.evaluation.measuring import measure
from lightning_coba.evaluation.metrics import METRICS
from lightning_coba.evaluation.programs import has_program, program_of, why_not_run
from lightning_coba.evaluation.rows import EvaluationRow

pytestmark = pytest.mark.skipif(sandbox.why_not_isolated() is not None, reason=str(sandbox.why_not_isolated()))

ADD = EvaluationRow(
    0, (1,), 'def add(a, b):\n    """Add two numbers."""\n', "    return a + b",
    {
        "lang": "python",
        "entry_point": "add",
        "test": "X = {}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
    },
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (ADD.gold, True),
        ("    return sum((a, b))\n\nprint('and more')", True),
        ("    return a + b\n\nprint('no line break', end='')", True),
        ("    return a - b", False),
        ("    return a +", False),
        ("", False),
        ("    import sys\n    sys.exit(0)", False),
        ("    import os\n    os._exit(0)", False),
        ("    pass\n\nraise SystemExit", False),
        ("    return 3\n\nimport atexit\natexit.register(print, 'proof-')", False),
        ("    while True: pass", False),
    ],
)
def test_an_answer_passes_where_its_tests_do(answer, right, monkeypatch):
    program = program_of(ADD, answer)
    assert passes(program.__class__(program.command, program.files, sandbox.Limits(seconds=3), program.proof)) == right


def test_proofs_are_new_each_time():
    assert program_of(ADD, ADD.gold).proof != program_of(ADD, ADD.gold).proof


def test_tests_that_call_themselves_and_prompts_that_are_no_code():
    calling = EvaluationRow(0, (1,), ADD.prompt, ADD.gold, ADD.fields | {"test": ADD.fields["test"] + "\ncheck(add)"})
    assert program_of(calling, ADD.gold).files["main.py"].count("check(add)") == 1
    text = EvaluationRow(0, (1,), "Write a function that adds.\n", "def add(a, b):\n    return a + b", ADD.fields)
    assert run_tests([calling, text], [[ADD.gold], [text.gold, "def add(a, b): return 3"]], True) == [
        [True], [True, False],
    ]  # fmt: skip


def test_answers_that_are_tests_run_on_the_code():
    row = EvaluationRow(0, (1,), "Write tests.\n", "assert add(1, 1) == 2", {"code": "def add(a, b):\n  return a + b"})
    answers = ["assert add(1, 1) == 2\nassert add(0, 3) == 3", "assert add(1, 1) == 3", "print(add(1, 1))"]
    assert run_tests([row], [answers], True) == [[True, False, False]]


def test_programs_that_compute_the_label():
    row = EvaluationRow(0, (1,), "4 apples ...\n", "n0 = 4.0\nanswer = n0 * 2", {"label": "8.0"})
    assert has_program(row)
    assert run_tests([row], [["answer = 16 / 2", "answer = 9", "result = 8"]], True) == [[True, False, False]]
    endless = ["answer = 1e999", "answer = float('nan')"]  # their distance to any label is within any share of them
    assert run_tests([row], [endless], True) == [[False, False]]
    thousand = EvaluationRow(0, (1,), "4 apples ...\n", "answer = 1000", {"label": "1,000"})
    assert run_tests([thousand], [[thousand.gold, "answer = 1"]], True) == [[True, False]]
    assert not has_program(EvaluationRow(0, (1,), "?", "yes", {"label": "yes"}))
    assert not has_program(EvaluationRow(0, (1,), "?", "4 + 4 = 8", {"label": "8"}))


def other(language, prompt, gold, test):
    return EvaluationRow(0, (1,), prompt, gold, {"lang": language, "test": test})


OTHERS = {
    "javascript": (
        other(
            "javascript", "function add(a, b) {\n", "  process.stdout.write('.');\n  return a + b;\n}",
            "if (add(1, 2) !== 3) throw 'wrong';",
        ),
        ["  return a - b;\n}", "  process.exit(0);\n}"],
    ),
    "java": (
        other(
            "java", "class Solution {\n  static int add(int a, int b) {\n",
            "    System.out.print('.');\n    return a + b;\n  }\n}",
            "public class Main {\n  public static void main(String[] a) {\n"
            "    if (Solution.add(1, 2) != 3) throw new AssertionError();\n  }\n}",
        ),
        ["    return a - b;\n  }\n}", "    System.exit(0);\n    return 0;\n  }\n}"],
    ),
    "cpp": (
        other(
            "cpp", "#include <cstdlib>\n#include <cstdio>\nusing namespace std;\nint add(int a, int b) {\n",
            "  putchar('.');\n  return a + b;\n}",
            "#undef NDEBUG\n#include <cassert>\nint main(int argc, char* argv[]) {\n  assert(add(1, 2) == 3);\n}",
        ),
        ["  return a - b;\n}", "  exit(0);\n}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("language", OTHERS)
def test_other_languages(language):
    row, wrong = OTHERS[language]
    if reason := why_not_run(row):
        pytest.skip(reason)
    assert run_tests([row], [[row.gold, *wrong]], True) == [[True, False, False]]


def test_what_cannot_run_is_said_and_not_counted(monkeypatch, tmp_path):
    go = other("go", "func add() {\n", "}", "func Test() {}")
    assert why_not_run(go) == "tests in go are not supported (python, javascript, java, cpp are)"
    monkeypatch.setattr(programs, "PATH", str(tmp_path))  # where programs in the sandbox are found
    row = OTHERS["cpp"][0]
    assert why_not_run(row).startswith("g++ is not installed")
    rows = [ADD, go, row]
    plan = TaskPlan("code", rows, 8, {"exact_match": METRICS["exact_match"]()})
    result = measure(plan, [[r.gold] for r in rows], [], 0.0, partial(run_tests, isolate=True))
    assert result.metrics["pass@1"].rows == 1
    assert result.metrics["pass@1"].score.value == 1
    assert any("the tests of 1 rows did not run: g++ is not installed" in note for note in result.notes)
    untested = measure(plan, [[r.gold] for r in rows], [], 0.0, None)
    assert untested.notes == ["3 rows have tests, which were not run (run_code=True, --run-code)"]
    assert "pass@1" not in untested.metrics


def test_without_walls_it_is_refused_unless_allowed(monkeypatch):
    monkeypatch.setattr(code_execution, "why_not_isolated", lambda: "no namespaces here.")
    with pytest.raises(ValueError, match=r"`evaluate.run_code` runs programs .*no namespaces here\..*--allow-network"):
        isolation(allow_network=False)
    assert isolation(allow_network=True) is False
