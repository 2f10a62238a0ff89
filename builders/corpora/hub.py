"""Whatever the library `datasets` can open: names on the Hugging Face hub, folders of a data set, single files.

The library (https://github.com/huggingface/datasets) reads CSV, JSON, Parquet, Arrow, folders of images or sounds with
their `metadata.jsonl`, and by name what lies on the hub. Where a format here knows a corpus, that is better, since it
says which bytes a record came from. For all others there is this one. What a file stands for:

- one that ends in `.hub.json` says what to load, `path` being a folder beside it or a name on the hub:
  {"path": "nlphuji/flickr30k", "name": "TEST", "split": "test", "revision": "main"}
- `metadata.csv`, `metadata.jsonl` or `metadata.parquet` stand for the folder of media that they describe;
- any other file is loaded itself, by its ending. (Tars have a format of their own, `webdataset`.)

Rows are streamed, and images, sounds and clips stay the bytes they are, so that no decoder is needed. No code of a data
set is run: the library has not done so since its version 4. A record's place is the number of its row.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from tarsia.builders.corpora import At, Fault, Raw
from tarsia.builders.reading.rows import MEDIUM_OF, draft_row, raw_of
from tarsia.builders.storage import Store
from tarsia.schemas.errors import BadCatalog, MissingExtra, Outside
from tarsia.schemas.sample import Draft

RECORD = "one row"
FILES = ("**/*.hub.json",)

_BUILDERS: dict[str, dict[str, Any]] = {
    ".csv": {"path": "csv"},
    ".tsv": {"path": "csv", "sep": "\t"},
    ".json": {"path": "json"},
    ".jsonl": {"path": "json"},
    ".parquet": {"path": "parquet"},
    ".arrow": {"path": "arrow"},
    ".txt": {"path": "text"},
}
_FOLDERS = {"image": "imagefolder", "audio": "audiofolder", "video": "videofolder"}
_SAYS = {"path", "name", "split", "revision"}  # what a .hub.json may
_NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
_FETCHED = re.compile(r"(?:zip://[^:]*::)?hf://[^:]*")  # where media lie that only the library can open


def read(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The rows of the data set, of all its splits one after the other."""
    row = 0
    for split in _splits(source, file):
        for cells in split:
            yield raw_of({name: _here(cell, source) for name, cell in cells.items()}, row)
            row += 1


def _splits(source: Store, file: str) -> Iterable[Any]:
    if "://" in source.url:
        raise BadCatalog(f"the format hub opens local folders and names on the hub, not {source.url}")
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub") from None
    asked = _asked(source, file)
    wanted = asked.pop("split", None)
    builder = datasets.load_dataset_builder(**asked)
    files = builder.config.data_files or {}
    for path in (path for split in files.values() for path in split):
        if not path.startswith("hf://") and not Path(path).resolve().is_relative_to(source.url):
            raise Outside(f"'{file}' stands for {path}, which leaves {source.url}")  # so a README.md may say
    opened = builder.as_streaming_dataset(split=wanted)
    splits = opened.values() if isinstance(opened, dict) else [opened]
    return [split.decode(False) if split.features else split for split in splits]


def _asked(source: Store, file: str) -> dict[str, Any]:
    """The arguments that a file stands for."""
    path = PurePosixPath(file)
    if path.stem == "metadata":
        kinds = (MEDIUM_OF.get(entry.path.rpartition(".")[2].lower()) for entry in source.list(_folder(path)))
        medium = next(filter(None, kinds), "image")
        return {"path": _FOLDERS[medium], "data_dir": f"{source.url}/{_folder(path)}", "drop_labels": True}
    if file.endswith(".hub.json"):
        return _said(source, path)
    if path.suffix not in _BUILDERS:
        raise BadCatalog(f"'{file}': the format hub opens .hub.json, metadata.*, {', '.join(_BUILDERS)}")
    return {**_BUILDERS[path.suffix], "data_files": [f"{source.url}/{file}"]}


def _said(source: Store, path: PurePosixPath) -> dict[str, Any]:
    try:
        said = orjson.loads(source.read(str(path)))
    except orjson.JSONDecodeError as error:
        raise BadCatalog(f"'{path}': {error}") from error
    if not isinstance(said, dict) or not all(key in _SAYS and isinstance(said[key], str) for key in said):
        raise BadCatalog(f"'{path}': an object was due with texts under {', '.join(sorted(_SAYS))}, and nothing else")
    name = said.get("path", "")
    beside = str(path.parent / name)
    if name and any(True for _ in source.list(beside)):  # raises Outside if it leaves the corpus
        return {**said, "path": f"{source.url}/{beside}"}
    if not _NAME.fullmatch(name):
        raise BadCatalog(f"'{path}': path '{name}' is neither a folder beside it nor a name on the hub")
    return said


def _folder(path: PurePosixPath) -> str:
    return "" if str(path.parent) == "." else str(path.parent)


def _here(cell: Any, source: Store) -> Any:
    """A cell whose media lie elsewhere: fetched where only the library can, else with a path from the root on."""
    if isinstance(cell, list):
        return [_here(inner, source) for inner in cell]
    if not isinstance(cell, dict) or set(cell) != {"bytes", "path"} or cell["bytes"] is not None:
        return cell
    path = cell["path"]
    if not isinstance(path, str):
        return None
    zipped = re.fullmatch(rf"zip://[^:]*::{re.escape(source.url)}/[^:]*", path)
    if _FETCHED.fullmatch(path) or zipped and ".." not in path:
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return {"bytes": file.read(), "path": PurePosixPath(path.partition("::")[0]).name}
    return {"bytes": None, "path": path.removeprefix(f"{source.url}/")}


def draft(record: Any, at: At) -> Draft:
    """What the row says about its media."""
    return draft_row(record, at)
