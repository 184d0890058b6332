"""Build the parts of a run from its settings: of a folder that may be somebody else's, only what is listed here."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_coba.errors import UserError
from lightning_coba.runs.instantiation import built
from lightning_coba.user_files import refusals

#: Group of the configuration -> everything that a ``_target_`` in it may name. These are whole names, since a package
#: holds functions that run or import what they are given. None of these does.
BUILDABLE: Mapping[str, frozenset[str]] = {
    "data": frozenset(
        {
            "lightning_coba.MultitaskDataModule",
            "lightning_coba.data.MultitaskDataModule",
            "lightning_coba.Task",
            "lightning_coba.data.Task",
            "lightning_coba.data.quickstart_tasks",
        }
    ),
    "model": frozenset({"lightning_coba.models.LanguageModel"}),
    "peft": frozenset({"peft.LoraConfig", "peft.IA3Config"}),
    "system": frozenset({"lightning_coba.MultitaskLM", "lightning_coba.systems.multitask.MultitaskLM"}),
}
#: What Hydra gives a meaning to beside ``_target_``. None of it is needed to build what is listed above.
HYDRA_KEYS = ("_args_", "_convert_", "_partial_", "_recursive_")
#: What to do where something was refused that one trusts.
CURE = (
    "If the folder is your own, or you have read what it runs, pass --trust-code (in Python: "
    "TrainedRun.open(..., trust_code=True))."
)


def build(group: str, settings: Mapping[str, Any], trust_code: bool = False, **objects: Any) -> Any:
    """Build a part of a run.

    Texts stay as they are: ``${...}`` is looked up nowhere, unless the code of the folder is trusted.

    Args:
        group: The group of the configuration, a key of `BUILDABLE`.
        settings: Its node, plain dicts and lists.
        trust_code: Whether it may name anything to build, and look up anything with ``${...}``.
        **objects: Further arguments of the outermost target, as they are.

    Raises:
        UserError: The settings name something that is not listed, or arguments that it does not have.
    """
    plain: Any = settings
    if trust_code:
        from omegaconf import OmegaConf

        plain = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
    else:
        refuse_unlisted(group, settings)
    # Values of any kind may stand in a file that somebody else wrote, and constructors stumble over them as they like.
    with refusals(f"`{group}` of the run does not fit", "Restore the file.", "config.yaml"):
        return built(plain, group, **objects)


def refuse_unlisted(group: str, settings: Any) -> None:
    """Refuse settings that name something to build which is not listed for their group; nothing is imported.

    Raises:
        UserError: They do; the message has the key and the target.
    """
    for key, target in _special_entries(group, settings):
        name = key.rpartition(".")[-1]
        if name != "_target_":
            raise UserError(f"`{key}` is not allowed in an untrusted configuration; got {target!r}.", CURE)
        if not isinstance(target, str) or target not in BUILDABLE[group]:
            raise UserError(
                f"`{key}` names {target!r}; an untrusted configuration may build only "
                f"{', '.join(sorted(BUILDABLE[group]))}.",
                CURE,
            )


def _special_entries(where: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of settings that Hydra would act on, each with its path, at any depth."""
    for name, value in node.items() if isinstance(node, Mapping) else enumerate(node if isinstance(node, list) else ()):
        if name in ("_target_", *HYDRA_KEYS):
            yield f"{where}.{name}", value
        yield from _special_entries(f"{where}.{name}", value)
