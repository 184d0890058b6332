"""Where files are kept that take long to make again: dequantised models, rows and tokens."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache folder, which may not exist yet; all of it may be deleted at any time.

    It is ``$LIGHTNING_COBA_CACHE``, else ``$XDG_CACHE_HOME/lightning_coba``, else ``~/.cache/lightning_coba``.
    """
    own = os.environ.get("LIGHTNING_COBA_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_coba"
