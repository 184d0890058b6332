"""Answers on disk, appended as they come: a generation that was killed goes on where it was."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_coba.errors import UserError
from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.user_files import parse_json, read_text

_CURE = "Delete the file, or begin anew with --fresh."


class Predictions:
    """The answers to the rows of one task in a JSON-lines file.

    A line holds the row's number, its prompt and completion, the answers, and ``settings``: a fingerprint of the
    weights and of how was generated. Lines of other settings and a line that was cut off are dropped when the file is
    opened.

    Args:
        path: the file; its folder is made.
        settings: fingerprint of all that the answers depend on besides the prompt; see `fingerprint`.
        fresh: whether to begin anew.

    Attributes:
        num_replaced: answers that were there with other settings.
    """

    def __init__(self, path: Path, settings: str, fresh: bool = False) -> None:
        self.path = path
        self.settings = settings
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [] if fresh or not path.is_file() else _whole_lines(path)
        kept = [line for line in lines if line.get("settings") == settings]
        self.num_replaced = len(lines) - len(kept)
        self._found = {line["key"]: line for line in kept}
        partial = path.with_suffix(".partial")
        partial.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(partial, path)

    def answers(self, row: EvaluationRow) -> list[str] | None:
        """Return the answers to a row, or None where it has none yet."""
        found = self._found.get(_key(row))
        return None if found is None else found["answers"]

    def add(
        self, rows: Sequence[EvaluationRow], answers: Sequence[Sequence[str]], lengths: Sequence[Sequence[int]]
    ) -> None:
        """Append the answers to some rows, in one write.

        Args:
            rows: answered now.
            answers: to each.
            lengths: their tokens.
        """
        lines = []
        for row, mine, tokens in zip(rows, answers, lengths, strict=True):
            line = {
                "row": row.number,
                "origin": row.origin,
                "prompt": row.prompt,
                "gold": row.gold,
                "answers": list(mine),
                "tokens": list(tokens),
                "key": _key(row),
                "settings": self.settings,
            }
            self._found[line["key"]] = line
            lines.append(line)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(map(_line, lines)))


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Return a short hash of settings."""
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _key(row: EvaluationRow) -> str:
    return f"{row.number}:{fingerprint({'prompt': row.prompt_ids, 'gold': row.gold})}"


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    *lines, _ = read_text(path).split("\n")  # behind the last line break: nothing, or a line that was cut off
    found = [parse_json(line, f"{path}:{number}", "the line", _CURE) for number, line in enumerate(lines, start=1)]
    for number, line in enumerate(found, start=1):
        answers = line.get("answers") if isinstance(line, dict) else None
        if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers) or "key" not in line:
            raise UserError("the line is not one of answers.", _CURE, where=f"{path}:{number}")
    return found
