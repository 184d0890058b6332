"""Whether the Hugging Face hub has a model, or the cache does: found out once, and said in one sentence."""

import os
from functools import cache

from lightning_coba.errors import MissingFileError

#: Seconds that the hub may take to answer; without this question, transformers asks six times in a minute.
PATIENCE = 10


@cache
def require_model(name: str) -> None:
    """Refuse a model that neither hub nor cache has; where the hub does not answer, go on with the cache alone.

    Args:
        name: Hub id.

    Raises:
        FileNotFoundError: The hub does not know the model, or cannot be reached and the cache does not have it.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(name, timeout=PATIENCE)
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise MissingFileError(
                f"There is no model {name!r} on the Hugging Face hub, nor a folder of this name.",
                "Correct `model`: a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a folder, or a .gguf file. A "
                "private model needs a login: type `hf auth login`.",
            ) from error
        except HfHubHTTPError:
            return  # it answers; transformers says what is the matter
        except Exception:  # of the network, whose library may change
            os.environ["HF_HUB_OFFLINE"] = "1"
            constants.HF_HUB_OFFLINE = True
    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        raise MissingFileError(
            f"The Hugging Face hub cannot be reached, and its cache does not have the model {name!r}.",
            "Load it once while there is a network, or give `model` a folder or a .gguf file.",
        )
