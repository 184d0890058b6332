import torch


def fastest_precision() -> str:
    """Return the Lightning precision that this machine trains fastest in: ``"bf16-mixed"`` or ``"32-true"``.

    bfloat16 helps where the hardware multiplies it (recent GPUs; CPUs with AVX512-BF16 or AMX) and is slow where it
    is emulated.
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    # torch has no public question for the CPU; where it does not know these, float32 is always right.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bf16-mixed" if any(getattr(torch.cpu, name, bool)() for name in questions) else "32-true"
