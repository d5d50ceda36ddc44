"""Public data sets as arrays or text: from the folder `AUTOPRUNE_DATA`, a cache, or the official source.

What is downloaded is checked against its published checksum, parsed without unpickling anything, and kept as
`<name>_<split>.npz`, texts as they are, in the cache: `AUTOPRUNE_CACHE`, by default `~/.cache/autoprune`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import BadInput
from autoprune.references import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = np.ndarray[Any, Any]
TIMEOUT_SECONDS = 30
CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a split comes from.

    Attributes:
        files: URL -> MD5 of the file, as its publisher gives it.
        parse: from the downloaded files, in that order, to `(x, y)`.
    """

    files: Mapping[str, str]
    parse: Callable[[Sequence[Path]], tuple[Array, Array]]


def parse_idx(path: Path) -> Array:
    """The array in a gzipped IDX file of bytes, the format of MNIST (LeCun): a header of big-endian sizes,
    then data.

    Raises:
        BadInput: it is no such file, or is cut short.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} is not a gzip file: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise BadInput(f"{path} is not an IDX file of bytes (it starts with {content[:4]!r})")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != int(np.prod(shape)):
        raise BadInput(f"{path} holds {len(content) - start} values, its header announces {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def parse_idx_pair(paths: Sequence[Path]) -> tuple[Array, Array]:
    """Images `(N, H, W)` and labels `(N,)` from two IDX files."""
    return parse_idx(paths[0]), parse_idx(paths[1])


def parse_cifar(path: Path, members: Sequence[str]) -> tuple[Array, Array]:
    """Images `(N, 32, 32, 3)` and labels `(N,)` from the binary version of CIFAR-10 (Krizhevsky 2009).

    Its files are records of one label and 3 × 32 × 32 bytes. Nothing is unpacked to disk.

    Raises:
        BadInput: a file is missing in the archive or has another size.
    """
    records = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in members:
                stream = archive.extractfile(f"cifar-10-batches-bin/{member}")
                content = b"" if stream is None else stream.read()
                records.append(np.frombuffer(content, np.uint8).reshape(-1, 3073))
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise BadInput(f"{path} is not the binary version of CIFAR-10: {error}") from error
    table = np.concatenate(records)
    return np.ascontiguousarray(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), table[:, 0].copy()


def _cifar_train(paths: Sequence[Path]) -> tuple[Array, Array]:
    return parse_cifar(paths[0], [f"data_batch_{number}.bin" for number in range(1, 6)])


def _cifar_test(paths: Sequence[Path]) -> tuple[Array, Array]:
    return parse_cifar(paths[0], ["test_batch.bin"])


def _idx(base: str, part: str, images: str, labels: str) -> Source:
    return Source(
        {f"{base}{part}-images-idx3-ubyte.gz": images, f"{base}{part}-labels-idx1-ubyte.gz": labels},
        parse_idx_pair,
    )


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}

SOURCES = {
    "mnist": {
        "train": _idx(
            _MNIST, "train", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"
        ),
        "test": _idx(_MNIST, "t10k", "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    },
    "fashion_mnist": {
        "train": _idx(
            _FASHION, "train", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"
        ),
        "test": _idx(
            _FASHION, "t10k", "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"
        ),
    },
    "cifar10": {"train": Source(_CIFAR, _cifar_train), "test": Source(_CIFAR, _cifar_test)},
}


_BANKING = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/"
    "57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data/"
)
_CHAR_RNN = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/"
)

TEXTS = {
    "banking77_train.csv": (f"{_BANKING}train.csv", "cec64185f4197906aabce0781ef9a19b"),
    "banking77_test.csv": (f"{_BANKING}test.csv", "8dcd9dc31b686c75ec1f24bf23c140cb"),
    "tinyshakespeare.txt": (f"{_CHAR_RNN}tinyshakespeare/input.txt", "6fb458f1232090904fb40fe944165e91"),
}
"""File -> where it is published, and the MD5 of what lies there."""


def load_text(file: str) -> str:
    """A text of `TEXTS` from `AUTOPRUNE_DATA`, the cache or its source, whichever has it first.

    Raises:
        BadInput: there is no such text, it is not UTF-8, or it can neither be read nor downloaded.
    """
    if file not in TEXTS:
        raise BadInput(f"text: got {file!r}, accepted are {', '.join(TEXTS)}{nearest(file, TEXTS)}")
    given = os.environ.get("AUTOPRUNE_DATA")
    path = Path(given) / file if given else cache_folder() / file
    if not path.is_file():
        path = cache_folder() / file
    if not path.is_file():
        _download_text(file, path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error


def _download_text(file: str, path: Path) -> None:
    url, md5 = TEXTS[file]
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        fetched = Path(folder) / file
        try:
            found = _fetch(url, fetched)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{file} cannot be downloaded from {url} ({error}): set AUTOPRUNE_DATA to a folder that has it"
            ) from error
        if found != md5:
            raise BadInput(f"{url} is not the published file: its MD5 is {found}, expected {md5}")
        with _replacing(path) as stream:
            stream.write(fetched.read_bytes())


FILES = {
    "fsdd_8khz.npz": (
        "audio (int16, all recordings one behind the other), offset (where each begins, and the end), y, is_test, "
        "made from the recordings of https://github.com/Jakobovski/free-spoken-digit-dataset"
    ),
    "uci_har_subset.npz": (
        "x_train, y_train, x_test, y_test (float32, examples × 9 signals × 128 samples; activities from 0), made from "
        "the inertial signals of https://archive.ics.uci.edu/dataset/240"
    ),
}
"""File of arrays that has no published form -> the arrays in it, and what they are made from."""


def load_file(file: str) -> dict[str, Array]:
    """The arrays of a file of `FILES`, from `AUTOPRUNE_DATA` or the cache; it cannot be downloaded.

    Raises:
        BadInput: there is no such file, or it is damaged.
    """
    given = os.environ.get("AUTOPRUNE_DATA")
    folders = [*([Path(given)] if given else []), cache_folder()]
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None:
        looked = " or ".join(map(str, folders))
        raise BadInput(f"{file} is not in {looked} (AUTOPRUNE_DATA): a file with {FILES[file]}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} cannot be read as a .npz file: {error}") from error


def load_arrays(name: str, split: str) -> tuple[Array, Array]:
    """Inputs and labels of a split, as `uint8`.

    Args:
        name: `digits` (scikit-learn's, 8×8 pixels of 0 to 16), `mnist`, `fashion_mnist` or `cifar10`.
        split: `train` or `test`; `digits` has only `all`.

    Raises:
        BadInput: there is no such data set or split, or it can neither be read nor downloaded.
    """
    known = {"digits": ["all"], **{key: list(splits) for key, splits in SOURCES.items()}}
    if name not in known:
        raise BadInput(f"data set: got {name!r}, accepted are {', '.join(known)}{nearest(name, known)}")
    if split not in known[name]:
        raise BadInput(f"split of {name}: got {split!r}, accepted are {', '.join(known[name])}")
    return _digits() if name == "digits" else load_source(name, split, SOURCES[name][split])


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.uint8)


def cache_folder() -> Path:
    """Where downloads are kept: `AUTOPRUNE_CACHE`, by default `~/.cache/autoprune`."""
    return Path(os.environ.get("AUTOPRUNE_CACHE") or Path.home() / ".cache" / "autoprune")


def load_source(name: str, split: str, source: Source) -> tuple[Array, Array]:
    """The split from `AUTOPRUNE_DATA`, the cache or its source, whichever has it first.

    Raises:
        BadInput: a file that is not what it should be, or no way to get one.
    """
    file = f"{name}_{split}.npz"
    given = os.environ.get("AUTOPRUNE_DATA")
    for folder in [Path(given)] if given else []:
        if (folder / file).is_file():
            return _read(folder / file)
    cached = cache_folder() / file
    if not cached.is_file():
        x, y = _download(name, source, given)
        with _replacing(cached) as stream:
            np.savez(stream, x=x, y=y)
    return _read(cached)


def _read(path: Path) -> tuple[Array, Array]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} cannot be read as a .npz file with x and y: {error}") from error
    if len(x) != len(y):
        raise BadInput(f"{path} holds {len(x)} inputs and {len(y)} labels: every input needs one label")
    return x, y


def _download(name: str, source: Source, given: str | None) -> tuple[Array, Array]:
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        paths = []
        for number, (url, md5) in enumerate(source.files.items()):
            paths.append(Path(folder) / str(number))
            try:
                found = _fetch(url, paths[-1])
            except (OSError, ValueError) as error:
                looked = f"{given} has no {name}_*.npz" if given else "AUTOPRUNE_DATA is not set"
                raise BadInput(
                    f"{name} cannot be downloaded from {url} ({error}), and {looked}: set AUTOPRUNE_DATA to "
                    f"a folder with {name}_train.npz and {name}_test.npz (arrays x and y)"
                ) from error
            if found != md5:
                raise BadInput(f"{url} is not the published file: its MD5 is {found}, expected {md5}")
        return source.parse(paths)


def _fetch(url: str, path: Path) -> str:
    """Download to `path`; the MD5 of what came."""
    digest = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as out:
        while chunk := response.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is whole, however many processes write it at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    except OSError as error:
        raise BadInput(f"the cache {path.parent} cannot be written ({error}): set AUTOPRUNE_CACHE") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
