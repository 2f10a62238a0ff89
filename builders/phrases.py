"""What questions become when they are said, kept in the lake: words are normalised once, whoever speaks them.

    spoken/<rules>/<corpus>/<shard>/<digest16>.parquet      `at`: which of the shard's questions; `spoken`

A part holds the questions that were asked for and had no spoken form yet, so parts of a shard share none. A shard that
is rewritten begins anew; so does everything when the rules change.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.speech import SPOKEN_RULES, spoken_form
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, read_parquet, to_parquet
from tarsia.schemas.identity import digest
from tarsia.schemas.shard import Shard

PHRASES = pa.schema([("at", pa.int32()), ("spoken", pa.string())])


def questions(store: Store, shard: Shard) -> pa.Array:
    """The questions of a shard as they are written, one after the other."""
    turns = get_table(store, shard.text, ["conversations"])["conversations"].combine_chunks().flatten()
    return pc.struct_field(turns, "value").filter(pc.equal(pc.struct_field(turns, "from"), "human"))


def phrase(store: Store, corpus: str, shard: Shard, wanted: npt.NDArray[np.int64]) -> list[str]:
    """Sees to it that the wanted questions of a shard have a spoken form; the paths of its parts."""
    folder = _folder(corpus, shard)
    paths = [entry.path for entry in store.list(folder)]
    new = np.setdiff1d(wanted, get_phrases(store, paths)["at"].to_numpy())
    if len(new):
        index = get_table(store, shard.index, ["language", "questions"])
        owners = np.repeat(np.arange(len(index)), index["questions"].to_numpy())[new]
        texts = questions(store, shard).take(pa.array(new)).to_pylist()
        languages = index["language"].cast(pa.string()).take(pa.array(owners)).to_pylist()
        said = [_said(text, language) for text, language in zip(texts, languages, strict=True)]
        data = to_parquet(pa.table({"at": new.astype(np.int32), "spoken": said}, PHRASES))
        paths.append(f"{folder}/{digest(data)[:16]}.parquet")
        store.replace(paths[-1], data)
    return paths


@lru_cache(maxsize=4096)
def _said(text: str, language: str) -> str:
    """Many samples ask the same question."""
    return spoken_form(text, language)


def get_phrases(store: Store, paths: Iterable[str]) -> pa.Table:
    """Parts of one shard as one table, sorted by question."""
    parts = []
    for path in paths:
        with store.open(path) as file:
            parts.append(read_parquet(file, f"{store.url}/{path}").cast(PHRASES))
    table = pa.concat_tables([PHRASES.empty_table(), *parts])
    _, first = np.unique(table["at"].to_numpy(), return_index=True)  # two jobs may have said the same
    return table.take(pa.array(first))


def _folder(corpus: str, shard: Shard) -> str:
    return f"spoken/{SPOKEN_RULES}/{corpus}/{shard.tar.path.rsplit('/', 1)[1].removesuffix('.tar')}"
