"""``coba-export``: write the model of a run into a folder that others can load."""

import argparse
from collections.abc import Sequence

from lightning_coba.cli.command_line import add_trust, command_parser, help_texts, plain_errors, quiet_dependencies


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    import shtab

    made = command_parser("coba-export", *help_texts("coba-export"))
    run = made.add_argument("run", metavar="RUN", help="folder of a run, such as runs/my_tasks-coba-seed1")
    made.add_argument("--merge", action="store_true", help="add the adapter into the base model's weights")
    out = made.add_argument("--out", metavar="DIR", help="folder to write (default: RUN/export/merged or .../adapter)")
    made.add_argument(
        "--checkpoint",
        choices=("final", "best", "last"),
        default="final",
        help="final: what the run ended with, its best validation pass; best, last: of an unfinished run "
        "(default: %(default)s)",
    )
    made.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of whole weights (default: as in training)",
    )
    made.add_argument("--device", default="cpu", help="where the weights are added (default: %(default)s)")
    made.add_argument("--base", metavar="NAME", help="hub id under which others find the adapter's base model")
    made.add_argument(
        "--license", metavar="ID", help="for the model card, such as apache-2.0 (default: none is claimed)"
    )
    made.add_argument("--force", action="store_true", help="replace an earlier export")
    add_trust(made)
    for argument in (run, out):
        argument.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the run of the command line."""
    given = vars((command := parser()).parse_args(arguments))
    del given["print_completion"]

    with plain_errors(command):
        # --help is answered without these.
        from lightning_coba.export import BaseModel, export_notes, export_run
        from lightning_coba.runs.trained_run import TrainedRun

        quiet_dependencies()
        trust = {name: given.pop(name) for name in ("trust_code", "trust_remote_code")}
        run = given["run"] = TrainedRun.open(given["run"], **trust)
        # The other arguments have the names that they have on the command line.
        folder = export_run(**given)
        notes = export_notes(run, given["merge"] or not run.has_adapter, BaseModel.of(run, given["base"]))
    if given["merge"] and not run.has_adapter:
        notes.append("The run trained the whole model, so there was no adapter to merge.")
    for note in notes:
        print(note)
    print(f"The model is in {folder}. Look through its card before you share it: {folder / 'README.md'}")


if __name__ == "__main__":
    main()
