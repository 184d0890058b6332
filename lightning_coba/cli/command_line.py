"""What the commands without Hydra have in common: how they show help, complete words and report errors."""

import argparse
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import shtab


def command_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser whose texts are shown as they are written, and which prints completion scripts.

    Args:
        name: of the command.
        description: what it is for, and two or three lines to copy.
        epilog: what is written where, and what to know.
    """
    parser = argparse.ArgumentParser(
        name, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shtab.add_argument_to(parser, "--print-completion", help="print a completion script for your shell, and stop")
    return parser


def add_trust(made: argparse.ArgumentParser, remote: bool = True) -> None:
    """Add the options that say that what was given is trusted.

    Args:
        made: The parser of a command.
        remote: Whether the command loads models, which may come with code.
    """
    group = made.add_argument_group("whom it trusts (see docs/security.md)")
    group.add_argument(
        "--trust-code",
        action="store_true",
        help="build whatever the configuration names, such as a DataModule of your own: only what you have read",
    )
    if remote:
        group.add_argument(
            "--trust-remote-code",
            action="store_true",
            help="run code that comes with the model, where the configuration asks for it",
        )


def names(text: str) -> list[str]:
    """Return names that are typed with commas, or as a list.

    Example:
        >>> names("code,qa"), names("[code, qa]")
        (['code', 'qa'], ['code', 'qa'])
    """
    return [name.strip() for name in text.strip("[]").split(",") if name.strip()]


def help_texts(name: str) -> tuple[str, str]:
    """Return what ``help/<name>.txt`` says above the options of a command, and what it says below them."""
    text = Path(__file__).with_name("help").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    description, _, epilog = text.partition("\n[options]\n\n")
    return description, epilog


def quiet_dependencies() -> None:
    """Silence optional kernels that no one asked for, and what peft says of a name that it will change."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


@contextmanager
def plain_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Show what is wrong with what the user gave as one message, and faults of ours as a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped by Ctrl-C.\n")
    except Exception as error:
        # Not before it is needed: --help is answered in a tenth of a second.
        from lightning_coba.cli.errors import is_for_the_user, sentence_of

        if not is_for_the_user(error):
            raise
        parser.exit(2, f"{parser.prog}: {sentence_of(error)}\n")
