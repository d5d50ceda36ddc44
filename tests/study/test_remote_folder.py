"""Run folders behind a URL: in memory, and in a real server that speaks S3, which is started here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from small_study import BASELINE, SPACE, add, finished, point, small_spec

from autoprune.errors import BadInput, RunFolderError
from autoprune.record import Request
from autoprune.study import Study
from autoprune.study import remote as remote_module
from autoprune.study.remote import LEASE, PARTS, Remote


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose copies are its own."""
    move_to(monkeypatch, tmp_path / "here")


def move_to(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(place))
    monkeypatch.setattr(remote_module.platform, "node", lambda: place.name)


@pytest.fixture
def url() -> str:
    return f"memory://runs/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "known")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "to-nobody-else")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield f"s3://bucket/runs/{uuid.uuid4().hex}"
    server.stop()


def begun(url: str) -> Study:
    remote = Remote(url)
    study = Study.create(remote.begin(), small_spec(), SPACE, {"seconds": {}}, BASELINE)
    study.remote = remote
    return study


def with_weights(study: Study, number: int) -> None:
    answer = finished(number, 0, point(0.1 * number), 88.0, 1.5)
    answer.checkpoint = b"w" * 100
    study.record(Request(number, 0, answer.choices), answer)


def test_what_was_recorded_is_there_before_anything_else_is_dispatched(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begun(url)
    for number in range(3):
        with_weights(study, number)
    study.log_request(Request(3, 0, point(0.7)))
    study.commit()
    # The machine is lost here, and the lease runs out.
    move_to(monkeypatch, tmp_path / "elsewhere")
    monkeypatch.setattr(remote_module, "LEASE_SECONDS", 0.0)
    with Study.open(url, write=True) as again:
        assert [trial.metrics for trial in again.results] == [trial.metrics for trial in study.results]
        assert [request.trial for request in again.pending] == [3]
        assert again.load_checkpoint(2) == b"w" * 100 and again.place == url
        add(again, 87.0, 1.0)
    assert len(Study.open(url).results) == 4
    study._journal.close()


def test_a_real_store_of_objects(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begun(s3) as study:
        with_weights(study, 0)
        with_weights(study, 1)
        study.drop_checkpoints(())
    store = fsspec.filesystem("s3", use_listings_cache=False)
    there = [name.removeprefix(s3.removeprefix("s3://") + "/") for name in store.find(s3)]
    assert LEASE not in there and not any("lock" in name for name in there)
    assert len([name for name in there if name.startswith(PARTS)]) == 1  # they were put together
    move_to(monkeypatch, tmp_path / "elsewhere")
    read = Study.open(s3)
    assert [t.metrics for t in read.results] == [t.metrics for t in study.results]
    local = {p.relative_to(read.folder).as_posix() for p in read.folder.rglob("*") if p.is_file()}
    assert {name for name in there if name.startswith("checkpoints")} <= local
    secret = b"to-nobody-else"
    assert not any(secret in p.read_bytes() for p in read.folder.rglob("*") if p.is_file())


def test_a_second_driver_is_refused_wherever_it_is(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(url) as study:
        add(study, 88.0, 1.5)
        study.set_state("running")
        with pytest.raises(RunFolderError, match="another search is at work"):
            Study.open(url, write=True)
        move_to(monkeypatch, tmp_path / "elsewhere")
        with pytest.raises(RunFolderError, match="on here; if it was killed, wait for"):
            Study.open(url, write=True)
        assert Study.open(url).state == "running"  # looking on is fine
    move_to(monkeypatch, tmp_path / "third")
    Study.open(url, write=True).close()


def test_a_driver_that_was_taken_over_writes_no_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begun(url)
    add(study, 88.0, 1.5)
    store, lease = fsspec.filesystem("memory"), f"{url.removeprefix('memory:/')}/{LEASE}"
    found = json.loads(store.cat_file(lease))
    store.pipe_file(lease, json.dumps({**found, "driver": "another", "host": "there"}).encode())
    monkeypatch.setattr(remote_module, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr("autoprune.study.patience.PATIENCE_SECONDS", 0.1)
    with pytest.raises(RunFolderError, match="another search, on there, has taken"):
        add(study, 87.0, 1.0)
    study._journal.close()


def test_a_journal_that_lacks_a_part_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begun(url)
    add(study, 88.0, 1.5)
    add(study, 87.0, 1.0)
    study._journal.close()
    store = fsspec.filesystem("memory")
    parts = sorted(store.find(f"{url.removeprefix('memory:/')}/{PARTS}"))
    store.rm_file(parts[0])
    move_to(monkeypatch, tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="a part of the journal before .* is missing"):
        Study.open(url)


def test_what_cannot_be_a_run_folder_is_refused(url: str) -> None:
    with pytest.raises(RunFolderError, match="there is no study in"):
        Study.open(url)
    begun(url).close()
    with pytest.raises(RunFolderError, match="is not empty"):
        Remote(url).begin()
    for wrong in ("sftp://me:secret@host/x", "nothing://x", "simplecache::memory://x"):
        with pytest.raises(BadInput) as raised:
            Remote(wrong)
        assert "secret" not in str(raised.value)
