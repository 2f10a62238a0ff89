"""Store: a folder or a bucket, addressed alike. The only file that knows where bytes lie.

    store = open_store("s3://bucket/lake")     # or a path; credentials from the usual AWS_* variables
    store.create("snapshots/00000001.json", data)      # raises Exists when somebody was first
    with store.spool() as file: ...; store.publish(file, "corpora/a/b-1234abcd.tar")

Publishing is one step: a rename on disk, one PUT on object storage. What is half-written is never visible, and a
conditional create decides races. Buckets go through obstore; plain folders through the operating system, because
reading a 50 KB file that way costs 0.012 CPU-ms against 0.07, and a spool file is renamed instead of copied.

Paths are relative to the store, with forward slashes, and never leave it: `..`, absolute paths and symbolic links that
point outside raise `Outside`.
"""

import errno
import fcntl
import io
import os
import re
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, cast
from uuid import uuid4

from tarsia.schemas.errors import Exists, NotThere, Outside, StorageFault, UserError

_SPOOL = ".spool"
_WEB = ("http://", "https://")
_BUFFER = 1 << 18  # bytes that a spool file gathers before it writes
_FOLDERS = 4096  # whose links are remembered
_WRITING = ("write", "create")
_PAGE = 1000  # objects on a page of a bucket's listing, by the protocol of S3
_WORTH_A_PAGE = 4  # requests for one object each that a page may cost instead: it is longer than their answers
_PATIENCE = timedelta(seconds=60)  # with an endpoint that does not answer: long enough for a server that restarts
_PAUSE = timedelta(seconds=5)  # between two tries, at most
_TRIES = 10_000  # never the limit: the library's own ten are over after three seconds
_SILENCE = timedelta(seconds=20)  # of a body that does not go on


class Entry(NamedTuple):
    """One object: its path, its bytes, and a token that changes when it is rewritten."""

    path: str
    size: int
    version: str


class Store(Protocol):
    """A place for objects."""

    url: str

    def read(self, path: str) -> bytes:
        """The whole object. `NotThere` if there is none."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; `StorageFault` if the object is shorter."""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Several ranges, (offset, length) each, at once; what lies beyond the end is not in them."""

    def open(self, path: str) -> BinaryIO:
        """The object as a seekable file, for formats that are read in part."""

    def fetch(self, path: str) -> BinaryIO:
        """The object as a file on this machine, to be read more than once: of a bucket, a copy that closing removes."""

    def entry(self, path: str) -> Entry | None:
        """Size and version, or None."""

    def entries(self, paths: Collection[str]) -> dict[str, Entry | None]:
        """Size and version of many objects, or None, by path; paths that leave the store are left out.

        A bucket lists whole folders where that takes fewer requests than to ask for one object after the other.
        """

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects below a folder, sorted by path."""

    def modified(self) -> dict[str, float]:
        """When each object was written last, in seconds since 1970; nothing that is stored depends on it."""

    def create(self, path: str, data: bytes) -> None:
        """Writes a new object; `Exists` if the name is taken."""

    def replace(self, path: str, data: bytes) -> None:
        """Writes an object, whatever stood there, in one step."""

    def delete(self, path: str) -> None:
        """Removes an object; nothing happens when there is none."""

    def spool(self) -> Any:
        """A context manager with a local file to write to, removed at its end unless it was published."""

    def publish(self, spooled: BinaryIO, path: str) -> None:
        """Makes a spooled file visible as `path`. The same name always has the same content, so a twin may win."""


def open_store(url: str) -> Store:
    """The store at a local path or a URL such as `s3://bucket/prefix`."""
    if "://" in url and not url.startswith("file://"):
        return _bucket(url.rstrip("/"))
    return _Folder(url.removeprefix("file://"))


def match(store: Store, pattern: str) -> list[Entry]:
    """The objects whose path matches a glob, sorted by path; only `**` crosses folders."""
    parts = PurePosixPath(pattern).parts
    fixed = list(takewhile(lambda part: not _is_glob(part), parts))
    if len(fixed) == len(parts):
        found = store.entry("/".join(parts))
        return [found] if found else []
    return [entry for entry in store.list("/".join(fixed)) if _matches(PurePosixPath(entry.path).parts, parts)]


def _is_glob(part: str) -> bool:
    return any(sign in part for sign in "*?[")


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


class _Folder:
    """A local folder."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.url = self.root
        self._folders: dict[str, str] = {}
        if os.path.isfile(self.root):  # noqa: PTH113
            raise NotThere(f"{self.root} is a file; a folder was due")

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.url,)

    def _path(self, path: str) -> str:
        """Where a path leads, all links followed."""
        full = self._named(path)
        return self._inside(path, path) if os.path.islink(full) else full  # noqa: PTH114 - pathlib costs more

    def _named(self, path: str) -> str:
        """Where a path leads unless its name is a link; links of folders are followed once: many media share one."""
        if path.startswith(("/", "\\")) or "\0" in path:
            raise Outside(f"{path!r} leaves {self.root}")
        folder, _, name = path.rpartition("/")
        known = self._folders.get(folder)
        if known is None:
            if len(self._folders) >= _FOLDERS:
                self._folders.clear()
            known = self._folders[folder] = self._inside(folder, path)
        return self._inside(path, path) if name in ("", ".", "..") else f"{known}/{name}"

    def _inside(self, path: str, asked: str) -> str:
        full = os.path.realpath(f"{self.root}/{path}")
        if not f"{full}/".startswith(self.root.rstrip("/") + "/"):
            raise Outside(f"{asked!r} leaves {self.root}")
        return full

    @contextmanager
    def _said(self, what: str, path: str) -> Iterator[str]:
        full = self._path(path)
        try:
            yield full
        except OSError as error:
            if error.errno in _NOWHERE and what not in _WRITING:
                raise NotThere(f"no {path!r} in {self.root}") from error
            raise StorageFault(f"cannot {what} {path!r} in {self.root}: {error.strerror}") from error

    def read(self, path: str) -> bytes:
        with suppress(OSError):  # a link, or what is said below
            if data := _at_once(self._named(path)):
                return data
        with self._said("read", path) as full:
            if not stat.S_ISREG(os.stat(full).st_mode):  # noqa: PTH116 - a pipe would be waited for
                raise NotThere(f"no {path!r} in {self.root}")
            return Path(full).read_bytes()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._said("read", path) as full, open(full, "rb", buffering=0) as file:  # noqa: PTH123
            return _whole(os.pread(file.fileno(), length, offset), length, full)

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with self._said("read", path) as full, open(full, "rb", buffering=0) as file:  # noqa: PTH123
            return [memoryview(os.pread(file.fileno(), length, offset)) for offset, length in ranges]

    def open(self, path: str) -> BinaryIO:
        with self._said("open", path) as full:
            return Path(full).open("rb")

    def fetch(self, path: str) -> BinaryIO:
        return self.open(path)

    def entry(self, path: str) -> Entry | None:
        with suppress(OSError):
            found = os.lstat(self._named(path))
            return _entry(path, os.stat(self._path(path)) if stat.S_ISLNK(found.st_mode) else found)  # noqa: PTH116
        return None

    def entries(self, paths: Collection[str]) -> dict[str, Entry | None]:
        return _one_by_one(self, paths)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        found, top = [], self._path(prefix)
        for folder, folders, names in os.walk(top, onerror=self._unlisted):
            if folder == self.root:
                folders[:] = [name for name in folders if name != _SPOOL]
            below = f"{prefix}{folder[len(top) :]}".strip("/")
            for name in names:
                found.append(self._listed(f"{folder}/{name}", f"{below}/{name}" if below else name))
        yield from sorted(entry for entry in found if entry)

    def _listed(self, full: str, path: str) -> Entry | None:
        """A file of a folder. A link that leads nowhere is one: who listed it and reads it is told."""
        try:
            return _entry(path, os.stat(full))  # noqa: PTH116
        except OSError as error:
            self._unlisted(error)
            return Entry(path, 0, "") if os.path.islink(full) else None  # noqa: PTH114

    def modified(self) -> dict[str, float]:
        return {entry.path: int(entry.version.partition("-")[2]) / 1e9 for entry in self.list()}

    def _unlisted(self, error: OSError) -> None:
        if error.errno not in _NOWHERE:
            raise StorageFault(f"cannot list '{error.filename}': {error.strerror}") from error

    def create(self, path: str, data: bytes) -> None:
        with self.spool() as file, self._said("create", path):
            file.write(data)
            final = self._ready(file, path)
            try:
                os.link(file.name, final)  # fails when the name is taken, in one step
            except FileExistsError as error:
                raise Exists(path) from error

    def replace(self, path: str, data: bytes) -> None:
        with self.spool() as file:
            file.write(data)
            self.publish(file, path)

    def delete(self, path: str) -> None:
        with suppress(NotThere), self._said("delete", path) as full:
            Path(full).unlink()

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        with self._said("write", _SPOOL):
            file = _spooled(Path(self.root, _SPOOL))
        try:
            with _room(self.url), file:
                yield file
        finally:
            Path(file.name).unlink(missing_ok=True)

    def publish(self, spooled: BinaryIO, path: str) -> None:
        with self._said("write", path):
            os.replace(spooled.name, self._ready(spooled, path))  # noqa: PTH105

    def _ready(self, spooled: BinaryIO, path: str) -> str:
        """The final name, once the bytes are safe: a name that outlives a power cut must not stand for nothing."""
        spooled.flush()
        os.fsync(spooled.fileno())
        final = self._path(path)
        Path(final).parent.mkdir(parents=True, exist_ok=True)
        return final


_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


def _at_once(full: str) -> bytes | None:
    """A file that is no link, in three calls of the system; None where its size does not tell how long it is."""
    number = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(number).st_size
        data = os.read(number, size)
    finally:
        os.close(number)
    return data if len(data) == size else None


def _entry(path: str, found: os.stat_result) -> Entry | None:
    if not stat.S_ISREG(found.st_mode):
        return None
    return Entry(path, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


def _spooled(folder: Path) -> BinaryIO:
    """A new file that this process holds a lock on for as long as it is open."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    while True:
        file = Path(folder, uuid4().hex).open("xb+", _BUFFER)  # noqa: SIM115 - the caller closes it
        with suppress(OSError):  # a file system without locks is never swept
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):  # noqa: PTH110 - else somebody swept between the two calls
            return file
        file.close()


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def _room(folder: str) -> Iterator[None]:
    """Says which disk is full where a file is written bit by bit, its end included."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFault(f"cannot write in {folder}: {error.strerror}") from error


@lru_cache(maxsize=16)
def _sweep(folder: Path) -> None:
    """Removes the files that nobody holds: their processes were killed. Once a process, before it has its own."""
    for left in folder.iterdir():
        with suppress(OSError), left.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


class _Bucket:
    """A prefix of a bucket, through obstore."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        if url.startswith(_WEB):
            raise UserError(
                f"{url}: a web address can be neither listed nor written; give a folder or s3://bucket/prefix"
            )
        self.url = url
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        if endpoint and not endpoint.startswith(_WEB):
            raise UserError(f"AWS_ENDPOINT_URL is '{endpoint}'; it begins with http:// or https://")
        options: dict[str, Any] = {"timeout": "120s", "connect_timeout": "10s", "read_timeout": _SILENCE}
        if endpoint.startswith("http://"):
            options["allow_http"] = True
        settings: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        retry = {"retry_timeout": _PATIENCE, "max_retries": _TRIES, "backoff": {"max_backoff": _PAUSE}}
        settings |= {"client_options": options, "retry_config": retry}
        try:
            self._store = cast(Any, from_url)(url, **settings)
        except Exception as error:
            raise UserError(f"cannot use {url}: {_first_line(error)}; give a folder or s3://bucket/prefix") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.url,)

    def _path(self, path: str) -> str:
        parts = PurePosixPath(path).parts
        if path.startswith(("/", "\\")) or ".." in parts or not _NAMEABLE.fullmatch(path):
            raise Outside(f"{path!r} leaves {self.url}")
        return "/".join(parts)

    @contextmanager
    def _said(self, what: str, path: str) -> Iterator[str]:
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

        full = self._path(path)
        _not_forked()
        try:
            yield full
        except AlreadyExistsError as error:
            raise Exists(path) from error
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, NotFoundError | FileNotFoundError) and what not in _WRITING:
                raise NotThere(f"no {path!r} in {self.url}") from error
            raise StorageFault(f"cannot {what} {path!r} in {self.url}: {_first_line(error)}") from error

    def read(self, path: str) -> bytes:
        with self._said("read", path) as full:
            return bytes(self._store.get(full).bytes())

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._said("read", path) as full:
            data = bytes(self._store.get_range(full, start=offset, length=length))
        return _whole(data, length, f"{self.url}/{path}")

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with self._said("read", path) as full:
            try:
                return self._ranges(full, ranges)
            except Exception as error:
                if "416 Range Not Satisfiable" not in str(error):
                    raise
            size = self._store.head(full)["size"]  # shorter than it was: what is left of each range
            return [self._ranges(full, [one])[0] if one[0] < size else memoryview(b"") for one in ranges]

    def _ranges(self, full: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        starts, lengths = [offset for offset, _ in ranges], [length for _, length in ranges]
        found = self._store.get_ranges(full, starts=starts, lengths=lengths, coalesce=0)
        return [memoryview(data) for data in found]

    def open(self, path: str) -> BinaryIO:
        from obstore import open_reader

        with self._said("open", path) as full:
            reader = open_reader(self._store, full)
        return io.BufferedReader(_Raw(reader, lambda: self._said("read", path)), 1 << 20)

    def fetch(self, path: str) -> BinaryIO:
        file = cast(BinaryIO, tempfile.TemporaryFile(buffering=_BUFFER))  # noqa: SIM115 - the caller closes it
        with self._said("read", path) as full:
            for chunk in self._store.get(full):
                file.write(chunk)
        file.seek(0)
        return file

    def entry(self, path: str) -> Entry | None:
        with suppress(NotThere), self._said("look at", path) as full:
            return _object(self._store.head(full))
        return None

    def entries(self, paths: Collection[str]) -> dict[str, Entry | None]:
        folders: dict[str, set[str]] = {}
        for path in paths:
            folders.setdefault(path.rpartition("/")[0], set()).add(path)
        found: dict[str, Entry | None] = {}
        for folder, wanted in folders.items():
            if len(wanted) >= _WORTH_A_PAGE:
                found |= self._listed(folder, wanted)
        return found | _one_by_one(self, [path for path in paths if path not in found])

    def _listed(self, folder: str, wanted: set[str]) -> dict[str, Entry | None]:
        """What a listing of a folder says about some objects in it, as long as its pages cost less than asking."""
        found: dict[str, Entry | None] = {}
        with suppress(Outside), self._said("list", folder) as full:
            for number, page in enumerate(self._store.list(full or None, chunk_size=_PAGE), 1):
                found |= {meta["path"]: _object(meta) for meta in page if meta["path"] in wanted}
                left = len(wanted) - len(found)
                if left < number * _WORTH_A_PAGE:
                    return found
            found |= dict.fromkeys((path for path in wanted - found.keys() if self._path(path) == path), None)
        return found

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._said("list", prefix) as full:
            found = [_object(meta) for page in self._store.list(full or None) for meta in page]
        yield from sorted(found)

    def modified(self) -> dict[str, float]:
        with self._said("list", "") as full:
            pages = self._store.list(full or None)
            return {meta["path"]: meta["last_modified"].timestamp() for page in pages for meta in page}

    def create(self, path: str, data: bytes) -> None:
        with self._said("create", path) as full:
            self._store.put(full, data, mode="create", use_multipart=False)

    def replace(self, path: str, data: bytes) -> None:
        with self._said("write", path) as full:
            self._store.put(full, data)

    def delete(self, path: str) -> None:
        with suppress(NotThere), self._said("delete", path) as full:
            self._store.delete(full)

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        folder = tempfile.gettempdir()
        with _room(folder), tempfile.TemporaryFile(buffering=_BUFFER) as file:  # without a name: gone with its process
            yield cast(BinaryIO, file)

    def publish(self, spooled: BinaryIO, path: str) -> None:
        spooled.seek(0)
        with self._said("write", path) as full:
            self._store.put(full, spooled)


def _one_by_one(store: Store, paths: Iterable[str]) -> dict[str, Entry | None]:
    found: dict[str, Entry | None] = {}
    for path in paths:
        with suppress(Outside):
            found[path] = store.entry(path)
    return found


_NAMEABLE = re.compile(r"[^\x00-\x1f\x7f]*")  # what a key of a bucket may hold


@lru_cache(maxsize=64)
def _bucket(url: str) -> Store:
    return _Bucket(url)


@lru_cache(maxsize=1)
def _first_user() -> int:
    return os.getpid()


def _not_forked() -> None:
    """Threads do not survive a fork, and obstore's would be waited for without end: say so instead."""
    if os.getpid() != _first_user():
        raise UserError(
            "this process was forked from one that had used a bucket, whose connections it cannot use: start workers "
            'with "spawn" or "forkserver" (DataLoader(..., multiprocessing_context="spawn"))'
        )


def _object(meta: Any) -> Entry:
    return Entry(meta["path"], meta["size"], meta.get("e_tag") or f"{meta['size']}-{meta['last_modified']}")


class _Raw(io.RawIOBase):
    """obstore's reader as a Python file."""

    def __init__(self, reader: Any, said: Callable[[], AbstractContextManager[str]]) -> None:
        self._reader = reader
        self._said = said

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        with self._said():
            data = bytes(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _whole(data: bytes, length: int, where: str) -> bytes:
    if len(data) != length:
        raise StorageFault(f"{where}: asked for {length} bytes, got {len(data)}")
    return data


def _first_line(error: BaseException) -> str:
    line = f"{error}".strip().partition("\n")[0].partition(": <?xml")[0] or type(error).__name__
    if "169.254.169.254" in line:  # where a cloud's machine would ask for its own
        return "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    refused = any(code in line for code in ("401 Unauthorized", "403 Forbidden"))
    return f"{line} (are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY right?)" if refused else line
