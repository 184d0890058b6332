"""The tokens of each task: encoded once by `datasets`, kept on disk, recognised by rows, tokenizer and length."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightning_coba.cache_folder import cache_folder
from lightning_coba.data.reading.arrow_store import ArrowStore, finish, unfinished_folder, write_numbers
from lightning_coba.data.reading.row_cache import RowTable
from lightning_coba.data.tokens.encoding import TEXT_COLUMNS, TOKEN_SCHEMA, Encoder, frame_of

_FORMAT = 1  # another number makes all older files stale
_ROWS_PER_CALL = 256  # bounds what a tokenizer returns, which takes a hundred bytes a token
_FEWEST_ROWS_FOR_A_BAR = 20_000


def token_tables(
    rows: list[RowTable], tokenizer: Any, max_length: int, num_proc: int | None = None
) -> list[ArrowStore]:
    """Return the tokens of each task, row by row; what is not kept from an earlier run is encoded.

    Args:
        rows: the rows of each task.
        tokenizer: see `Encoder`.
        max_length: see `Encoder`.
        num_proc: processes that encode rows on disk; ``None`` = this one (a tokenizer in Rust has its own threads).

    Raises:
        ValueError: The tokenizer or a conversation is not usable.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    return [
        _tokens(table, partial(Encoder, tokenizer, max_length), fingerprint, max_length, num_proc) for table in rows
    ]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a text that changes when a tokenizer would encode differently, its chat template included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs], default=str)
    else:
        # What comes first is how the last call padded and cut, which every call sets anew.
        vocabulary = backend.to_str().partition('"added_tokens"')[2]
    about = [
        type(tokenizer).__name__,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        frame_of(tokenizer),
        getattr(tokenizer, "split_special_tokens", None),
    ]
    return _hash(vocabulary + json.dumps(about, default=str))


def _tokens(table: RowTable, encoder: Any, tokenizer: str, max_length: int, num_proc: int | None) -> ArrowStore:
    if table.fingerprint is None:
        encode = encoder(table.origins)
        texts = table.store.table.select(TEXT_COLUMNS)
        return ArrowStore(pa.concat_tables(encode(texts.slice(first, _ROWS_PER_CALL)) for first in _firsts(texts)))
    fingerprint = _hash(json.dumps([_FORMAT, table.fingerprint, tokenizer, max_length]))
    folder = cache_folder() / "tokens" / fingerprint
    if not folder.is_dir():
        with unfinished_folder(folder.parent) as unfinished:
            _map(table, encoder(table.origins), unfinished / "tokens.arrow", fingerprint, num_proc)
            write_numbers(unfinished)
            finish(unfinished, folder)
    return ArrowStore(folder)


def _firsts(texts: pa.Table) -> range:
    return range(0, texts.num_rows, _ROWS_PER_CALL)


def _map(table: RowTable, encoder: Encoder, file: Path, fingerprint: str, num_proc: int | None) -> None:
    import datasets  # takes a second, so only here

    (rows,) = table.store.files
    with _bar(len(table.store) >= _FEWEST_ROWS_FOR_A_BAR):
        dataset = datasets.Dataset.from_file(str(rows)).select_columns(list(TEXT_COLUMNS)).with_format("arrow")
        dataset.map(
            encoder,
            batched=True,
            batch_size=_ROWS_PER_CALL,
            num_proc=num_proc,
            remove_columns=list(TEXT_COLUMNS),
            features=datasets.Features.from_arrow_schema(TOKEN_SCHEMA),
            cache_file_name=str(file),
            new_fingerprint=fingerprint,
            desc="Tokenising",
        )


@contextmanager
def _bar(wanted: bool) -> Iterator[None]:
    """Show the progress bar of `datasets` or not, whatever its user had chosen for elsewhere."""
    import datasets

    disabled = datasets.are_progress_bars_disabled()
    if not wanted:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def _hash(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
