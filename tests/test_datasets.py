"""Data sets from a folder, the cache and a server, all of them small and local."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from autoprune import datasets
from autoprune.datasets import Source, load_arrays, load_source, parse_cifar, parse_idx, parse_idx_pair
from autoprune.errors import BadInput


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    return tmp_path / "cache"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], np.uint8)


def served(folder: Path, url: str) -> Source:
    files = {"images.gz": idx(IMAGES), "labels.gz": idx(LABELS)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Source(
        {url + name: hashlib.md5(content).hexdigest() for name, content in files.items()}, parse_idx_pair
    )


def test_digits_are_embedded() -> None:
    x, y = load_arrays("digits", "all")
    assert x.shape == (1797, 8, 8)
    assert x.max() == 16
    assert sorted(set(y)) == list(range(10))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("minst", "train", "data set: got 'minst', accepted are digits, mnist.*did you mean 'mnist'"),
        ("mnist", "val", "split of mnist: got 'val', accepted are train, test"),
    ],
)
def test_unknown_names_are_refused(name: str, split: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_arrays(name, split)


def test_a_folder_of_ones_own_comes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist_test.npz", x=IMAGES, y=LABELS)
    x, y = load_arrays("mnist", "test")
    assert np.array_equal(x, IMAGES)
    assert y.tolist() == [7, 1]
    assert not cache.exists()


def test_a_download_is_kept_in_the_cache(cache: Path, server: tuple[Path, str]) -> None:
    source = served(*server)
    x, y = load_source("tiny", "train", source)
    assert np.array_equal(x, IMAGES)
    assert y.tolist() == [7, 1]
    assert [path.name for path in cache.iterdir()] == ["tiny_train.npz"]
    for path in server[0].iterdir():
        path.unlink()
    assert np.array_equal(load_source("tiny", "train", source)[0], IMAGES)


def test_another_file_than_the_published_is_refused(cache: Path, server: tuple[Path, str]) -> None:
    source = served(*server)
    (server[0] / "labels.gz").write_bytes(idx(LABELS + 1))
    with pytest.raises(BadInput, match=r"labels.gz is not the published file: its MD5 is \w+, expected"):
        load_source("tiny", "train", source)
    assert not cache.exists()


def test_offline_says_what_to_do(cache: Path, server: tuple[Path, str]) -> None:
    source = Source({server[1] + "gone.gz": "0" * 32}, parse_idx_pair)
    with pytest.raises(
        BadInput, match=r"404.*AUTOPRUNE_DATA is not set: set AUTOPRUNE_DATA to a folder with tiny"
    ):
        load_source("tiny", "train", source)


def test_a_folder_without_the_file_is_mentioned(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"has no tiny_\*.npz"):
        load_source("tiny", "train", Source({"file:///nowhere/at/all": ""}, parse_idx_pair))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, server: tuple[Path, str]) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="cannot be written"):
        load_source("tiny", "train", served(*server))


def test_a_cache_below_a_file_is_named(
    tmp_path: Path, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    with pytest.raises(BadInput, match=r"cannot be written .*: set AUTOPRUNE_CACHE"):
        load_source("tiny", "train", served(*server))


def test_pickles_in_a_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist_test.npz", x=np.array([{}, {}], object), y=LABELS)
    with pytest.raises(BadInput, match=r"mnist_test.npz cannot be read as a .npz file with x and y"):
        load_arrays("mnist", "test")


@pytest.mark.parametrize("arrays", [{"x": IMAGES}, {"x": IMAGES, "y": LABELS[:1]}])
def test_incomplete_files_are_refused(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    np.savez(tmp_path / "mnist_test.npz", **arrays)
    with pytest.raises(BadInput, match=r"mnist_test\.npz"):
        load_arrays("mnist", "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"plain", "is not a gzip file"),
        (gzip.compress(b"\0\0\x0d\1", mtime=0), "is not an IDX file of bytes"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\5ab", mtime=0), r"holds 2 values, its header announces \(5,\)"),
        (idx(LABELS)[:-3], "is not a gzip file"),
    ],
)
def test_damaged_idx_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        parse_idx(tmp_path / "file.gz")


def cifar(path: Path, records: np.ndarray) -> Path:
    content = records.tobytes()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return path


def test_cifar_records_become_images(tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 255, (3, 3073), np.uint8)
    x, y = datasets.SOURCES["cifar10"]["test"].parse([cifar(tmp_path / "c.tar.gz", records)])
    assert x.shape == (3, 32, 32, 3)
    assert y.tolist() == records[:, 0].tolist()
    assert x[1, 2, 5, 1] == records[1, 1 + 1024 + 2 * 32 + 5]


def test_damaged_cifar_archives_are_refused(tmp_path: Path) -> None:
    odd = cifar(tmp_path / "odd.tar.gz", np.zeros(100, np.uint8))
    with pytest.raises(BadInput, match="is not the binary version of CIFAR-10"):
        parse_cifar(odd, ["test_batch.bin"])
    with pytest.raises(BadInput, match=r"data_batch_1\.bin"):
        datasets.SOURCES["cifar10"]["train"].parse([odd])


def test_every_source_is_served_with_a_checksum() -> None:
    for splits in datasets.SOURCES.values():
        assert set(splits) == {"train", "test"}
        for source in splits.values():
            assert all(len(md5) == 32 and int(md5, 16) for md5 in source.files.values())


def test_a_text_comes_from_the_folder_given_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare.txt").write_text("First Citizen:\n", encoding="utf-8")
    assert datasets.load_text("tinyshakespeare.txt") == "First Citizen:\n"


def test_a_text_is_downloaded_once_and_checked(
    server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    (folder / "input.txt").write_text("What, my lord?")
    md5 = hashlib.md5(b"What, my lord?").hexdigest()
    monkeypatch.setitem(datasets.TEXTS, "tinyshakespeare.txt", (f"{url}input.txt", md5))
    assert datasets.load_text("tinyshakespeare.txt") == "What, my lord?"
    (folder / "input.txt").unlink()
    assert datasets.load_text("tinyshakespeare.txt") == "What, my lord?"


def test_another_text_than_the_published_one_is_refused(
    server: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    (folder / "input.txt").write_text("another")
    monkeypatch.setitem(datasets.TEXTS, "tinyshakespeare.txt", (f"{url}input.txt", "0" * 32))
    with pytest.raises(BadInput, match="is not the published file"):
        datasets.load_text("tinyshakespeare.txt")
    monkeypatch.setitem(datasets.TEXTS, "tinyshakespeare.txt", (f"{url}missing.txt", "0" * 32))
    with pytest.raises(BadInput, match="cannot be downloaded.*set AUTOPRUNE_DATA"):
        datasets.load_text("tinyshakespeare.txt")


def test_an_unknown_text_is_named_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"did you mean 'tinyshakespeare.txt'"):
        datasets.load_text("tiny_shakespeare.txt")


def test_arrays_without_a_source_say_what_has_to_be_in_them(cache: Path) -> None:
    with pytest.raises(BadInput, match=r"uci_har_subset.npz is not in .*x_train, y_train.*made from"):
        datasets.load_file("uci_har_subset.npz")


def test_damaged_arrays_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    (tmp_path / "fsdd_8khz.npz").write_bytes(b"PK nothing")
    with pytest.raises(BadInput, match="cannot be read as a .npz file"):
        datasets.load_file("fsdd_8khz.npz")
