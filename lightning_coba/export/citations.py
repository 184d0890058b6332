"""What to cite: the papers and programs that a balancer or a run rests on, as BibTeX."""

import difflib
import importlib.metadata
import importlib.resources
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_coba.errors import UserError
from lightning_coba.runs.card import MULTITASK
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.trained_run import TrainedRun

_FOLDER = importlib.resources.files(__package__)
#: Every entry, once; fields that could not be confirmed are left out.
BIBTEX = (_FOLDER / "bibliography.bib").read_text(encoding="utf-8")
#: Balancers, adapters, options and base models -> keys of the papers that each rests on. A new balancer needs a line.
PAPERS = yaml.safe_load((_FOLDER / "papers.yaml").read_text(encoding="utf-8"))
PACKAGE_KEY = "lightning_coba"
_ENTRY = re.compile(r"^@\w+\{([\w-]+),\n.*?^\}", re.MULTILINE | re.DOTALL)


class Citation(str):
    """BibTeX entries: a string that a notebook and the interpreter show as it is, line breaks and all."""

    def __repr__(self) -> str:
        return str(self)


def citation(of: Any = "CoBa") -> Citation:
    """Return what to cite, as BibTeX: this package, and the papers and programs behind a method or a run.

    Use it when you write about results. In a notebook the last line ``citation("runs/x")`` shows it; in a script print
    it.

    Args:
        of: The folder of a run, or a `TrainedRun`: everything that it used, from the papers of its system and its
            balancer to the adapter's, the base model's where it is known, Lightning, transformers and PEFT. Or the name
            of a system as in ``system=NAME``, where that has papers of its own. Or a balancer: its name as in
            ``balancer=gradnorm_star``, its class, an object, or the callback that trained with it.

    Returns:
        The entries, this package first.

    Raises:
        ValueError: It is the name of no balancer, of no system with papers and of no folder.
        FileNotFoundError: The folder is not one of a run.

    Example:
        >>> print(citation("uniform"))  # doctest: +ELLIPSIS
        @software{lightning_coba,
        ...
        >>> "chen2018gradnorm" in citation("gradnorm_star")
        True
    """
    run = of if isinstance(of, TrainedRun) else _run_at(of)
    # The method of a multitask run is its balancer, which need not be the one that the system is known for.
    system = of if isinstance(of, str) and run is None else "" if run is None or run.system == MULTITASK else run.system
    own = _papers_of_system(system)
    keys: Iterable[str] = ()
    if run is not None:
        keys = _keys_of_run(run)
    elif not own:
        keys = _keys_of_balancer(_class_name(of))
    known = entries() | own
    return Citation("\n\n".join([_package(), *(known[key] for key in dict.fromkeys([*own, *keys]))]))


def entries(text: str = BIBTEX) -> dict[str, str]:
    """Return the entries of a bibliography by their keys."""
    return {match[1]: match[0] for match in _ENTRY.finditer(text)}


def _papers_of_system(name: str) -> dict[str, str]:
    """Return the entries of ``citation.bib`` in the package of a system, which is not imported; none without one."""
    file = importlib.resources.files("lightning_coba").joinpath("systems", name, "citation.bib")
    if not name.isidentifier() or not file.is_file():
        return {}
    return entries(file.read_text(encoding="utf-8"))


def _run_at(of: Any) -> TrainedRun | None:
    if isinstance(of, str) and os.sep not in of and not RunFiles(Path(of)).card.is_file():
        return None
    return TrainedRun.open(of) if isinstance(of, str | os.PathLike) else None


def _class_name(of: Any) -> str:
    """Return the class of a balancer that is named, given, or held by a callback."""
    if isinstance(of, str):
        legal = {name.lower(): name for name in PAPERS["balancers"]}
        plain = of.lower().removesuffix("_star").removesuffix("*")
        if plain not in legal:
            near = difflib.get_close_matches(plain, legal, n=1)
            raise UserError(
                "`citation.of` must be a balancer or the folder of a run; got "
                f"{of!r}.{f' Did you mean {near[0]!r}?' if near else ''} Balancers: {', '.join(sorted(legal))}."
            )
        return legal[plain]
    return (of if isinstance(of, type) else type(getattr(of, "balancer", of))).__name__


def _keys_of_balancer(name: str) -> Iterable[str]:
    """Return the papers of a class; those of a class that a user wrote are the user's to name."""
    return PAPERS["balancers"].get("CoBa" if name == "ConvergenceBalancer" else name, ())


def _keys_of_run(run: TrainedRun) -> Iterable[str]:
    balancer, model, peft = (run.settings.get(group) or {} for group in ("balancer", "model", "peft"))
    yield from _keys_of_balancer(_target(balancer.get("balancer", balancer)))
    yield from PAPERS["adapters"].get(_target(peft), ())
    yield from (key for option, key in PAPERS["options"].items() if {**model, **peft}.get(option))
    name = Path(str(model.get("model", ""))).name.lower()  # the folders above it may be called anything
    yield from (key for part, key in PAPERS["base_models"].items() if part in name)
    yield "falcon2019lightning"
    if name:
        yield "wolf2020transformers"
    if peft:
        yield "mangrulkar2022peft"


def _target(settings: Mapping[str, Any]) -> str:
    return str(settings.get("_target_", "")).rpartition(".")[-1]


def _package() -> str:
    version = importlib.metadata.version("lightning-coba")
    return (
        f"@software{{{PACKAGE_KEY},\n"
        "  title = {lightning\\_coba: Balanced Multitask Fine-Tuning of Language Models with {PyTorch Lightning}},\n"
        "  author = {{The lightning\\_coba authors}},\n"
        f"  version = {{{version}}}\n"
        "}"
    )
