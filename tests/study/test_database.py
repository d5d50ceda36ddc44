"""Studies in a real PostgreSQL server, which is started here and ended again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_study import add, finished, new_study, point

from autoprune.errors import AutopruneError, RunFolderError, SpecError
from autoprune.record import Request
from autoprune.spec import load_spec
from autoprune.study import Study

PORT = 24000 + os.getpid() % 500
PASSWORD = "known-to-nobody-else"
URL = f"postgresql://searcher@127.0.0.1:{PORT}/postgres"


def program(name: str) -> str | None:
    """Debian keeps the server's programs out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


class Server:
    """A server on 127.0.0.1 alone, that asks for a password. It refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._user = {"user": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        if self._user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        command = [program("initdb"), "-D", folder / "data", "-U", "searcher", "-A", "scram-sha-256"]
        self._call([*command, "--no-sync", f"--pwfile={folder / 'password'}"])
        self.start()

    def _call(self, command: list[object]) -> None:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd="/", **self._user
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {PORT} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.folder / "log"
        self._call([program("pg_ctl"), "start", "-w", "-D", self.folder / "data", "-l", log, "-o", options])

    def stop(self) -> None:
        self._call([program("pg_ctl"), "stop", "-w", "-m", "immediate", "-D", self.folder / "data"])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed (Debian's package `postgresql`)")
    folder = Path(tempfile.mkdtemp(prefix="autoprune-postgresql-"))
    made = Server(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield made
    made.stop()
    shutil.rmtree(folder)


def test_a_study_is_read_back_as_it_was_written_and_by_optuna(server: Server, tmp_path: Path) -> None:
    import optuna

    with new_study(tmp_path / "run", storage=URL) as study, study.clock():
        for accuracy in (88.0, 89.0, 70.0):
            add(study, accuracy, 1.5, ratio=accuracy / 200)
        open_request = Request(3, 0, point(0.5))
        study.log_request(open_request)
        study.commit()
        looked_at = Study.open(tmp_path / "run")  # by somebody else, while it goes on
        assert (len(looked_at.results), looked_at.pending) == (3, [open_request])
    read = Study.open(tmp_path / "run")
    assert [t.metrics for t in read.trials] == [t.metrics for t in study.trials]
    assert [t.number for t in read.front] == [t.number for t in study.front]
    name = (tmp_path / "run" / "storage.json").read_text().split('"study": "')[1].rstrip('"}')
    loaded = optuna.load_study(study_name=name, storage=URL.replace("postgresql", "postgresql+psycopg", 1))
    assert loaded.trials[0].values == [88.0, 1.5]
    assert not any(PASSWORD.encode() in p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())


def test_two_studies_of_one_name_share_nothing(server: Server, tmp_path: Path) -> None:
    with new_study(tmp_path / "a", storage=URL) as first, new_study(tmp_path / "b", storage=URL) as second:
        add(first, 88.0, 1.5)
        assert (len(Study.open(tmp_path / "a").trials), len(second.trials)) == (1, 0)


def test_a_second_driver_is_refused_though_it_has_a_folder_of_its_own(server: Server, tmp_path: Path) -> None:
    with new_study(tmp_path / "run", storage=URL) as study:
        add(study, 88.0, 1.5)
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with pytest.raises(RunFolderError, match="another search is at work"):
            Study.open(tmp_path / "copy", write=True)
    Study.open(tmp_path / "copy", write=True).close()


def test_a_server_that_is_gone_for_a_while_is_waited_for(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    with new_study(tmp_path / "run", storage=URL) as study:
        study.warn = said.append
        add(study, 88.0, 1.5)
        server.stop()
        timer = threading.Timer(2.0, server.start)
        timer.start()
        choices = point(0.1)
        study.record(Request(1, 0, choices), finished(1, 0, choices, 87.0, 1.0))
        timer.join()
        assert [t.metrics["accuracy"] for t in Study.open(tmp_path / "run").results] == [88.0, 87.0]
    assert len(said) == 1 and "trying again" in said[0] and PASSWORD not in said[0]


def test_who_has_no_password_is_told_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(AutopruneError, match="no password supplied"):
        new_study(tmp_path / "run", storage=URL)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/db",
        "postgresql://me@host/db?password=secret",
        "postgresql://me@host/db?sslpassword=secret",
        "mysql://me:secret@host/db",
        "postgresql://host:port/secret",
        "postgresql://me@host/db?service=secret",
        "secret",
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SpecError) as raised:
        load_spec({"task": "digits", "budget": {"trials": 1}, "storage": url})
    assert "storage: got" in str(raised.value) and "secret" not in str(raised.value)


def test_without_its_server_a_study_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(AutopruneError, match=r"storage: .*refused"):
        new_study(tmp_path / "run", storage="postgresql://me@127.0.0.1:1/db")
