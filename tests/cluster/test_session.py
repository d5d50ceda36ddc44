"""What is said before a cluster is joined, without one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from autoprune.cluster import session
from autoprune.cluster.jobs import JobServer
from autoprune.errors import BadInput

PYTHON = ".".join(map(str, sys.version_info[:3]))


def answering(monkeypatch: pytest.MonkeyPatch, **says: object) -> None:
    """A head that says so of itself, to somebody without a token."""
    import ray

    found = {"ray_version": ray.__version__, "python_version": PYTHON, **says}
    monkeypatch.setattr(session, "_probe", lambda head: found)


@pytest.mark.parametrize(("field", "name"), [("ray_version", "Ray"), ("python_version", "Python")])
def test_another_version_is_refused_with_both(monkeypatch: pytest.MonkeyPatch, field: str, name: str) -> None:
    answering(monkeypatch, **{field: "1.2.3"})
    with pytest.raises(BadInput, match=rf"which runs {name} 1\.2\.3, expected {name} \d.* as here"):
        session.checked("head:6379", lambda _: None)


def test_a_cluster_that_asks_for_no_token_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    answering(monkeypatch)
    assert session.checked("head:6379", said.append) == ("head:6379", False)
    assert len(said) == 1 and "CVE-2023-48022" in said[0] and "RAY_AUTH_MODE=token" in said[0]
    monkeypatch.setattr(session, "_probe", lambda head: {"is_protected": True})
    assert session.checked("head:6379", said.append) == ("head:6379", True)
    assert len(said) == 1


class Open(BaseHTTPRequestHandler):
    """A job server that lets everybody in, or nobody."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(200 if "version" in self.path else self.status)
        self.end_headers()
        self.wfile.write(b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}')

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), Open)
    Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()


@pytest.mark.parametrize(("status", "warnings"), [(200, 1), (401, 0)])
def test_a_job_server_that_lets_everybody_in_is_warned_of(
    server: str, monkeypatch: pytest.MonkeyPatch, status: int, warnings: int
) -> None:
    pytest.importorskip("aiohttp")
    said: list[str] = []
    monkeypatch.setattr(Open, "status", status)
    JobServer(server, said.append)
    assert len(said) == warnings and all("CVE-2023-48022" in text for text in said)
