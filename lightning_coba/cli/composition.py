"""Why a command line does not compose: in one sentence, with file and line where one of the user's is at fault."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.hints import hint_for, jobs_of
from lightning_coba.cli.own_files import check_file, chosen_files, first_line, own_folders, place_of, place_of_option
from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.user_files import kind_of, shown

_CURE = "Correct it; coba-train --help lists the groups and settings there are."


def check_own_files(arguments: Sequence[str]) -> None:
    """Refuse a file of the user's that Hydra would not read, before it tries.

    Args:
        arguments: of the command, without its name.

    Raises:
        UserError: with file and line.
    """
    for folder in own_folders(arguments):
        if kind_of(folder) != "a folder":
            told = f"`--config-dir` must be a folder; found {kind_of(folder)} at {shown(str(folder))}."
            raise MissingFileError(told, "Correct the path.")
    for file in _files(arguments):
        check_file(file)


def composition_error(arguments: Sequence[str]) -> UserError | None:
    """Return why a command line does not compose; None if it does, so that whatever went wrong is a fault of ours.

    Args:
        arguments: of the command, without its name.
    """
    try:
        check_own_files(arguments)
        error, files = _failure(arguments), _files(arguments)
        hint = hint_for(arguments)
    except UserError as told:
        return told
    if error is None and hint is None:
        return None
    return told_of(error, hint, files)


def told_of(error: Exception | None, hint: str | None, files: Sequence[Path]) -> UserError:
    """Return what Hydra or OmegaConf has refused, with what would have composed.

    Args:
        error: What composing has raised.
        hint: See `hints.hint_for`.
        files: The user's own that were chosen.
    """
    causes: list[Exception] = []
    while error is not None and len(causes) < 10:
        causes.append(error)
        error = error.__cause__  # type: ignore[assignment]
    if ours := next((cause for cause in causes if isinstance(cause, UserError)), None):
        return ours  # a resolver says what is wrong with what it was given
    keys = [str(key) for cause in causes if (key := getattr(cause, "full_key", None))]
    where = next(filter(None, (place_of(key, files) for key in keys)), "")
    if isinstance(causes[0] if causes else None, MissingConfigException):
        missing = str(causes[0].missing_cfg_file or "")  # type: ignore[attr-defined]
        where = place_of_option(missing.rpartition("/")[2], files)
    if hint:
        return UserError(hint, where=where)
    said = ": ".join(dict.fromkeys(first_line(cause).rstrip(":") for cause in causes))
    place = where or (str(files[0]) if files and not keys else "")
    what = f"`{keys[0]}`" if keys else "the configuration"
    return UserError(f"{what} does not compose ({said}).", _CURE, where=place)


def _files(arguments: Sequence[str]) -> list[Path]:
    overrides = get_args_parser().parse_known_args(list(arguments))[0].overrides
    return chosen_files(own_folders(arguments), overrides)


def _failure(arguments: Sequence[str]) -> Exception | None:
    """Return what composing raises, which is Hydra's code alone, or the run's folder, which it asks for first."""
    given = get_args_parser().parse_known_args(list(arguments))[0]
    searched = [f"hydra.searchpath=['file://{Path(given.config_dir).absolute()}']"] if given.config_dir else []
    try:
        jobs = list(jobs_of(given.overrides))
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_folder(), version_base="1.3"):
            for job in jobs:
                config = compose("train", [*searched, *job], return_hydra_config=True)
                OmegaConf.select(config, "hydra.run.dir")
    except Exception as error:
        return error
    return None
