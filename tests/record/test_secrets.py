"""What stays out of records, labels, reports and notices."""

from __future__ import annotations

import pytest

from traceloop.record.secrets import command_line, program_of, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no address: a?b@c", "no address: a?b@c"),
        ("http://localhost:9464/metrics", "http://localhost:9464/metrics"),
        ("http://user:pass@host/path", "http://***@host/path"),
        ("http://token@host", "http://***@host"),
        ("https://host/path?key=1&b=2", "https://host/path?***"),
        ("https://host/path#secret", "https://host/path#***"),
        ("see 'http://u:p@h:1/x?k=v', and http://u:p@h?k=v.", "see 'http://***@h:1/x?***', and http://***@h?***."),
        ("http://u:p/w@host/path", "http://***@host/path"),
        ("http://host/users/@me", "http://host/users/@me"),
        ("redis://:secret@cache:6379/0 postgres://a:b@c", "redis://***@cache:6379/0 postgres://***@c"),
        ("--dsn=http://k@sentry/1", "--dsn=http://***@sentry/1"),
    ],
)
def test_addresses_lose_userinfo_query_and_fragment(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "/srv/app.py", "--password", "x"], "app.py"),
        (["python", "-X", "dev", "-u", "-Wignore", "app.py", "x"], "app.py"),
        (["python", "/venv/bin/uvicorn", "app:app"], "uvicorn"),
        (["python", "-m", "package.module", "x"], "-m package.module"),
        (["python", "-Im", "package", "x"], "-m package"),
        (["python", "-mpackage", "x"], "-m package"),
        (["python", "-c", "secret = 1", "x"], "-c"),
        (["python", "-csecret = 1"], "-c"),
        (["python", "--", "app.py", "x"], "app.py"),
        (["python", "folder/", "x"], "folder"),
        (["python", "-", "x"], "-"),
        (["/usr/bin/python3", "-i"], "python3"),
        (["python", "-c", "from multiprocessing.spawn import ...", "--multiprocessing-fork"], "multiprocessing"),
        ([], ""),
    ],
)
def test_a_program_is_named_without_its_arguments(words: list[str], name: str) -> None:
    assert program_of(words) == name
    assert command_line(words, False) == [name]


def test_arguments_are_shown_on_request_without_what_addresses_hide() -> None:
    assert command_line(["python", "app.py", "http://u:p@h"], True) == ["python", "app.py", "http://***@h"]
