"""A run folder behind a URL (s3://bucket/runs/a, or whatever else fsspec opens), by way of a copy on this machine.

The driver works in the copy. Each `push` brings what is new to the store before anything else is dispatched, weights
before the evaluations that came with them; the journal grows there by one object for each push, named by where it
begins, since stores cannot append. Whoever opens the URL elsewhere fetches all of it into a copy of his own.

Stores have no locks. The driver leaves a lease there and renews it; another one is refused while it is fresh, and a
driver that finds somebody else's in its place stops. Credentials come from where fsspec looks for them, never a URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from autoprune.datasets import cache_folder
from autoprune.errors import BadInput, MissingExtra, RunFolderError
from autoprune.study.run_folder import LOCK, Lock
from autoprune.study.storage import JOURNAL

LEASE = "lease.json"
LEASE_SECONDS = 180.0  # after which a driver that gave no sign of life is taken to be dead
RENEW_SECONDS = 20.0
PARTS = f"{JOURNAL}.parts"
OWN = (LOCK, LEASE, JOURNAL, "live.json", "report.html")  # of one machine, or kept in another form
FLAT = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory")  # stores that know no folders


def is_url(run: str | Path) -> bool:
    """Whether a run folder is named by a URL."""
    return isinstance(run, str) and "://" in run


class Remote:
    """A run folder behind a URL.

    Args:
        url: where it is; nothing is asked yet.

    Attributes:
        url: as it was given.
        folder: the copy on this machine.

    Raises:
        BadInput: the URL holds a password, or is of a kind that fsspec does not know.
        MissingExtra: what opens it is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        with contextlib.suppress(ValueError):
            if urlsplit(url).password is not None:
                raise BadInput(
                    "run: got a URL with a password in it, expected one without; see fsspec's settings"
                )
        if "::" in url:
            raise BadInput(f"run: got {url!r}, expected the URL of one place, without '::'")
        try:
            self._store, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise MissingExtra(
                f"run: {url} needs another package: {error}; for s3: pip install 'autoprune[s3]'"
            ) from None
        except ValueError as error:
            raise BadInput(f"run: got {url!r}: {error}") from None
        self.url = url
        self.folder = cache_folder() / "runs" / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._driver = uuid.uuid4().hex
        self._renewed = -RENEW_SECONDS
        self._sent: dict[str, tuple[int, int]] = {}  # file -> its size and time of change when it was sent
        self._journal = 0  # bytes of it that are there

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # -- the driver ------------------------------------------------------------------------------------------

    def begin(self) -> Path:
        """An empty copy for a search that is new there.

        Raises:
            RunFolderError: something is there already, or it cannot be reached.
        """
        if self._names():
            raise RunFolderError(
                f"{self.url} is not empty; `autoprune resume {self.url}` goes on with it, --run names another"
            )
        self._clear()
        self._take()
        return self.folder

    def fetch(self, *, write: bool) -> Path:
        """The copy as it should be. Where a driver on this machine is at work in it, it is left alone.

        Args:
            write: to go on with it, as the only driver.

        Raises:
            RunFolderError: there is nothing, another driver is at work on it, or it cannot be reached.
        """
        if Lock.is_held(self.folder):
            if write:
                raise RunFolderError(f"another search is at work in {self.url}")
            return self.folder
        names = self._names()
        if not names:
            raise RunFolderError(f"there is no study in {self.url}")
        (self.folder / LEASE).unlink(missing_ok=True)
        if write:
            self._take()
        parts = []
        for name in names:
            if name.startswith(f"{PARTS}/"):
                parts.append(name)
            elif name != LEASE or not write:
                self._get(name)
        for path in (self.folder / "checkpoints").rglob("*"):
            if path.is_file() and path.relative_to(self.folder).as_posix() not in names:
                path.unlink()
        if parts:
            self._assemble(parts)
        self._note()
        return self.folder

    def push(self) -> None:
        """Bring everything that is new to the store.

        Raises:
            RunFolderError: it cannot be reached, or another driver has taken the run over.
        """
        self.renew()
        files = {
            path.relative_to(self.folder).as_posix(): path
            for path in _files(self.folder)
            if path.suffix != ".tmp" and path.relative_to(self.folder).as_posix() not in OWN
        }
        with self._explained():
            for name, path in files.items():
                if self._sent.get(name) != (state := _state(path)):
                    self._make_folder(name)
                    self._store.put_file(str(path), self._at(name))
                    self._sent[name] = state
            self._push_journal()
            for name in [name for name in self._sent if name not in files]:
                with contextlib.suppress(FileNotFoundError):
                    self._store.rm_file(self._at(name))
                del self._sent[name]

    def renew(self) -> None:
        """Show that this driver lives.

        Raises:
            RunFolderError: another one has taken the run over, or the store cannot be reached.
        """
        if time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        lease = self._lease()
        if lease and lease.get("driver") != self._driver:
            raise RunFolderError(f"another search, on {lease.get('host')}, has taken {self.url} over")
        self._write_lease()

    def compact(self) -> None:
        """Put the parts of the journal together, so that opening it takes one request for all of them.

        Raises:
            RunFolderError: the store cannot be reached; nothing is lost by that.
        """
        parts = sorted(name for name in self._names() if name.startswith(f"{PARTS}/"))
        if len(parts) < 2:
            return
        with self._explained():
            self._store.pipe_file(self._at(parts[0]), (self.folder / JOURNAL).read_bytes())
            for name in parts[1:]:
                self._store.rm_file(self._at(name))

    def release(self) -> None:
        """Let others write."""
        with contextlib.suppress(Exception):  # it runs out by itself
            if (self._lease() or {}).get("driver") == self._driver:
                self._store.rm_file(self._at(LEASE))

    # -- its parts -------------------------------------------------------------------------------------------

    def _push_journal(self) -> None:
        path = self.folder / JOURNAL
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._journal)
            fresh = file.read()
        if fresh:
            name = f"{PARTS}/{self._journal:015d}"
            self._make_folder(name)
            self._store.pipe_file(self._at(name), fresh)
            self._journal += len(fresh)

    def _assemble(self, parts: list[str]) -> None:
        """The journal from its parts, the first of which may cover the others."""
        content = bytearray()
        for name in sorted(parts):
            offset = name.rpartition("/")[2]
            if not offset.isdecimal() or int(offset) > len(content):
                raise RunFolderError(f"{self.url}: a part of the journal before {name} is missing")
            with self._explained():
                part = self._store.cat_file(self._at(name))
            content[int(offset) : int(offset) + len(part)] = part
        _write(self.folder / JOURNAL, bytes(content))

    def _note(self) -> None:
        """Take everything that was fetched as sent."""
        self._sent = {path.relative_to(self.folder).as_posix(): _state(path) for path in _files(self.folder)}
        for name in OWN:
            self._sent.pop(name, None)
        journal = self.folder / JOURNAL
        self._journal = journal.stat().st_size if journal.is_file() else 0

    def _names(self) -> list[str]:
        """Everything that is there, relative to the URL."""
        with self._explained():
            self._store.invalidate_cache()
            try:
                found = self._store.find(self._root)
            except FileNotFoundError:
                return []
        root = self._root.rstrip("/") + "/"
        names = [name[len(root) :] for name in found if name.startswith(root)]
        wrong = [name for name in names if ".." in PurePosixPath(name).parts or name.startswith("/")]
        if wrong:
            raise RunFolderError(f"{self.url}: {wrong[0]!r} leads out of the folder")
        return names

    def _get(self, name: str) -> None:
        path = self.folder / name
        with self._explained():
            size = self._store.size(self._at(name))
            if name.startswith("checkpoints/") and path.is_file() and path.stat().st_size == size:
                return  # these never change
            _write(path, self._store.cat_file(self._at(name)))

    def _take(self) -> None:
        """Take the lease, or refuse."""
        lease = self._lease()
        age = time.time() - float(lease.get("at", 0.0)) if lease else LEASE_SECONDS
        is_own = (
            bool(lease) and lease.get("host") == platform.node()
        )  # its driver would hold the lock of the copy
        if 0 <= age < LEASE_SECONDS and not is_own:
            raise RunFolderError(
                f"another search is at work in {self.url}, on {lease.get('host')}; if it was killed, "
                f"wait for {LEASE_SECONDS - age:.0f} s"
            )
        self._write_lease()
        if (self._lease() or {}).get("driver") != self._driver:
            raise RunFolderError(f"another search has just begun in {self.url}")

    def _lease(self) -> dict[str, Any]:
        try:
            with self._explained():
                found = json.loads(self._store.cat_file(self._at(LEASE)))
        except (FileNotFoundError, ValueError):
            return {}
        is_one = isinstance(found, dict) and isinstance(found.get("at"), int | float)
        return found if is_one else {}

    def _write_lease(self) -> None:
        lease = {"driver": self._driver, "host": platform.node(), "at": time.time()}
        with self._explained():
            self._make_folder(LEASE)
            self._store.pipe_file(self._at(LEASE), json.dumps(lease).encode())
        self._renewed = time.monotonic()

    def _clear(self) -> None:
        if Lock.is_held(self.folder):
            raise RunFolderError(f"another search is at work in {self.url}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _make_folder(self, name: str) -> None:
        protocols = (
            self._store.protocol if isinstance(self._store.protocol, tuple) else (self._store.protocol,)
        )
        if not set(protocols) & set(FLAT):
            self._store.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What a store raises, of whichever kind, as trouble with the run folder."""
        try:
            yield
        except (FileNotFoundError, RunFolderError):
            raise
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0][:300]
            raise RunFolderError(f"{self.url} cannot be used: {text or type(error).__name__}") from None


def is_leased(folder: Path) -> bool:
    """Whether a copy that was fetched came with the fresh lease of a driver elsewhere."""
    try:
        at = float(json.loads((folder / LEASE).read_text(encoding="utf-8"))["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return 0 <= time.time() - at < LEASE_SECONDS


def _files(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _write(path: Path, content: bytes) -> None:
    """A file in full, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.tmp")
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}") from None
