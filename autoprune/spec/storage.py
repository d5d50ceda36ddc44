"""Where a study is kept: in its run folder, or in PostgreSQL by a URL that holds no secret."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

SCHEME = "postgresql://"
# Of what libpq takes: nothing that is a secret, or that would be sent elsewhere than the URL says.
SETTINGS = ("application_name", "host", "port", "sslcert", "sslkey", "sslmode", "sslrootcert", "user")


def problem_of_url(url: str) -> str:
    """What is wrong with a URL of a database; empty where nothing is. It never repeats the URL, which may be secret."""
    expected = f"expected {SCHEME}USER@HOST:PORT/DATABASE"
    try:
        parts = urlsplit(url)
        password, _ = parts.password, parts.port
        settings = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        return f"got a text that is no URL, {expected}"
    if password is not None or any("password" in name for name in settings):
        return (
            f"got a password in it, {expected}; passwords come from ~/.pgpass or PGPASSWORD, "
            f"so that none gets into a run folder, a log or the list of processes"
        )
    if (
        f"{parts.scheme}://" != SCHEME
        or not parts.path.strip("/")
        or not (parts.hostname or "host" in settings)
    ):
        return f"got another kind of URL or none, {expected}"
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        return f"got the setting {unknown[0][:40]!r} in it, expected {', '.join(SETTINGS)}"
    return ""


def checked_url(url: str | None) -> str | None:
    """A URL of a database as it is.

    Raises:
        ValueError: it cannot be used, or holds a secret.
    """
    if url is not None and (problem := problem_of_url(url)):
        raise ValueError(problem)
    return url
