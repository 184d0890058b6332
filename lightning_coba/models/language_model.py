"""Load a causal language model and its tokenizer: from a hub id, a local folder, or a GGUF file."""

import importlib.util
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lightning_coba.errors import MissingPackageError
from lightning_coba.models.gguf import quiet_transformers
from lightning_coba.models.precision import fastest_precision
from lightning_coba.models.tokenizer import load_tokenizer, model_source


@dataclass(frozen=True)
class LanguageModel:
    """Describe a causal language model: which one, and how its weights are held. Nothing is loaded before `load`.

    Args:
        model: hub id, folder or GGUF file; see :func:`load_language_model`.
        dtype: type of the weights, such as ``"bfloat16"``.
        attn_implementation: of transformers, such as ``"eager"`` or ``"sdpa"``; None = the model's own choice.
        trust_remote_code: whether code from a hub may run.
        gradient_checkpointing: whether whoever trains it computes each layer again in the backward pass.
        load_in_4bit: whether frozen weights are kept in 4 bits; needs an adapter to train.
        compile: whether whoever trains it compiles what runs before the head.

    Example:
        >>> LanguageModel("HuggingFaceTB/SmolLM2-135M-Instruct", dtype="bfloat16").dtype
        'bfloat16'
    """

    model: str
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False
    load_in_4bit: bool = False
    compile: bool = False

    def load(self, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the model and its tokenizer; for options and errors see :func:`load_language_model`."""
        if self.attn_implementation:
            options["attn_implementation"] = self.attn_implementation
        return load_language_model(self.model, self.dtype, self.trust_remote_code, self.load_in_4bit, **options)


def load_language_model(
    name_or_path: str,
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
    load_in_4bit: bool = False,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model for next-token prediction, and its tokenizer.

    A GGUF file is dequantised once (about 20 s for 135M parameters) and kept as safetensors in the user's cache
    folder (``$LIGHTNING_COBA_CACHE``, else ``$XDG_CACHE_HOME/lightning_coba``, else ``~/.cache/lightning_coba``).

    Args:
        name_or_path: hub id; folder that ``save_pretrained`` wrote; path of a ``.gguf`` file; or
            ``package/file.gguf`` for one inside an installed package (found without importing it; ``*`` is allowed).
        dtype: of the weights, such as ``"float32"`` or ``"bfloat16"``.
        trust_remote_code: whether code from the hub may run; off.
        load_in_4bit: whether the weights of the linear layers, but for the head, are kept in 4 bits (NF4 with nested
            scales, multiplied in bfloat16 where the machine is fast in it, else in float32).
        **options: for ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        FileNotFoundError: if the GGUF file, or the package that should hold it, is not there.
        ImportError: if ``load_in_4bit`` and bitsandbytes is not installed.
    """
    if load_in_4bit:
        options |= _four_bits()
    source = model_source(name_or_path)
    with quiet_transformers():
        tokenizer = load_tokenizer(source, trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    for module in model.modules() if load_in_4bit else ():
        # On a CPU with bfloat16 instructions bitsandbytes repacks the weights at the first evaluation, with coarser
        # scales and without a way back to training.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model, tokenizer


def checkpoint_activations(model: PreTrainedModel | PeftModel) -> None:
    """Let the model compute each layer a second time in the backward pass, instead of keeping all activations.

    Raises:
        ValueError: if its class cannot.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with warnings.catch_warnings():
        # transformers 5.23 renamed it; 5.20 knows this name only.
        warnings.filterwarnings("ignore", "`gradient_checkpointing_enable` is deprecated", FutureWarning)
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Only the reentrant kind needs inputs with a gradient; here it would be computed for nothing.
    base.disable_input_require_grads()


def _four_bits() -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackageError(
            "`load_in_4bit` needs bitsandbytes.", "Type: pip install -c constraints.txt 'lightning-coba[4bit]'"
        )
    fast = torch.bfloat16 if fastest_precision() == "bf16-mixed" else torch.float32
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=fast,
    )
    # Weights are packed where they are loaded: each rank's on its own device, which is not set yet at this time.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": quantization, "device_map": {"": device}}
