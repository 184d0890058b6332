"""Keep tokens and passwords of the environment out of what is written and logged."""

import os
import re
from collections.abc import Mapping
from typing import Any

#: Variables of the environment whose values are secrets, by what their names hold: HF_TOKEN, WANDB_API_KEY and so on.
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)", re.IGNORECASE)
#: Shorter values are in too many texts: `TOKENIZERS_PARALLELISM=false` is no secret.
_SHORTEST = 8
#: The address of a server with a password in it, whatever the variable is called.
_WITH_PASSWORD = re.compile(r"://[^/@\s]+:[^/@\s]+@")


def without_secrets(value: Any) -> Any:
    """Return texts, and lists and dicts of them, with ``${oc.env:NAME}`` in place of every secret in the environment.

    In a configuration this is what to write there by hand, and what reads the secret again where the run goes on.

    Example:
        >>> os.environ["DEMO_TOKEN"] = "hush-hush-hush"
        >>> without_secrets({"url": "https://me:hush-hush-hush@example.org", "lr": 0.1})
        {'url': 'https://me:${oc.env:DEMO_TOKEN}@example.org', 'lr': 0.1}
        >>> del os.environ["DEMO_TOKEN"]
    """
    return _without(value, _secrets())


def _secrets() -> dict[str, str]:
    """Return secret -> name, the longest first: one may hold another."""
    found = {text: name for name, text in os.environ.items() if _is_secret(name, text)}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def _is_secret(name: str, text: str) -> bool:
    if _WITH_PASSWORD.search(text):
        return True
    # Such variables may also say where a secret lies (a file, a socket), which has to be written to be found again.
    elsewhere = text.startswith(("/", "~", ".")) or text.isdigit()
    return bool(_SECRET_NAME.search(name)) and len(text) >= _SHORTEST and not elsewhere


def _without(value: Any, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {_without(key, secrets): _without(entry, secrets) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without(entry, secrets) for entry in value]
    if isinstance(value, str):
        for secret, name in secrets.items():
            value = value.replace(secret, f"${{oc.env:{name}}}")
    return value
