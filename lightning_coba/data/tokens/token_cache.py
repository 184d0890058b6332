"""The tokens of each task: encoded once, kept on disk, recognised by rows, tokenizer and length."""

import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import Pool
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from lightning_coba.cache_folder import only_maker
from lightning_coba.data.reading.arrow_store import ArrowStore, fingerprint, kept, new_store
from lightning_coba.data.reading.row_cache import RowTable
from lightning_coba.data.tokens.encoding import TEXT_COLUMNS, TOKEN_SCHEMA, Encoder, frame_of

_encode_here: Callable[[int], pa.Table]  # of a process of a pool
_ROWS_PER_CALL = 256  # bounds what a tokenizer returns, which takes a hundred bytes a token
_CALLS_PER_WRITE = 4


def token_tables(
    rows: list[RowTable], tokenizer: Any, max_length: int, num_proc: int | None = None
) -> list[ArrowStore]:
    """Return the tokens of each task, row by row; what is not kept from an earlier run is encoded.

    Args:
        rows: the rows of each task.
        tokenizer: see `Encoder`.
        max_length: see `Encoder`.
        num_proc: processes that encode; ``None`` = this one (a tokenizer in Rust has its own threads).

    Raises:
        ValueError: The tokenizer or a conversation is not usable.
    """
    about = tokenizer_fingerprint(tokenizer)
    stores = []
    for table in rows:
        key = fingerprint(table.fingerprint, about, max_length)
        if (store := kept("tokens", key)) is None:
            with only_maker("tokens", key, f"the tokens of {_source_of(table)}"):
                if (store := kept("tokens", key)) is None:  # another run may have made them while this one waited
                    store = _make(key, table, Encoder(tokenizer, max_length, table.origins), num_proc)
        stores.append(store)
    return stores


def _make(key: str, table: RowTable, encoder: Encoder, num_proc: int | None) -> ArrowStore:
    with new_store("tokens", TOKEN_SCHEMA, key) as new:
        encoded = _encoded(table.store, encoder, num_proc)
        while together := list(itertools.islice(encoded, _CALLS_PER_WRITE)):
            new.write(pa.concat_tables(together).combine_chunks())
    return new.store


def _source_of(table: RowTable) -> str:
    return table.origins[0].removesuffix(" row ").removesuffix(":") if table.origins else "some rows"


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a text that changes when a tokenizer would encode differently, its chat template included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs], default=str)
    else:
        # What comes first is how the last call padded and cut, which every call sets anew.
        vocabulary = backend.to_str().partition('"added_tokens"')[2]
    return fingerprint(
        vocabulary,
        type(tokenizer).__name__,
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        frame_of(tokenizer),
        getattr(tokenizer, "split_special_tokens", None),
    )


def _encoded(rows: ArrowStore, encoder: Encoder, num_proc: int | None) -> Iterator[pa.Table]:
    starts = range(0, len(rows), _ROWS_PER_CALL)
    encode = partial(_encode, encoder, rows)
    # The delay keeps what is encoded at once from printing anything.
    bar = partial(tqdm, total=len(starts), desc="Tokenising", unit=" batches", delay=2, leave=False)
    if num_proc is None:
        yield from bar(map(encode, starts))
    else:
        with _pool(num_proc, encode) as pool:
            yield from bar(pool.imap(_encode_in_pool, starts))


def _encode(encoder: Encoder, rows: ArrowStore, start: int) -> pa.Table:
    return encoder(rows.table.select(TEXT_COLUMNS).slice(start, _ROWS_PER_CALL))


def _pool(num_proc: int, encode: Callable[[int], pa.Table]) -> Pool:
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else a tokenizer that has used its threads warns at each fork
    try:
        return multiprocessing.Pool(num_proc, _begin, [encode])
    finally:
        del os.environ["TOKENIZERS_PARALLELISM"]
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _begin(encode: Callable[[int], pa.Table]) -> None:
    global _encode_here  # sent once: a tokenizer is much to send with every batch
    _encode_here = encode


def _encode_in_pool(start: int) -> pa.Table:
    return _encode_here(start)
