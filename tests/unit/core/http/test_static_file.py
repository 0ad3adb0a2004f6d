"""The files of the page: their headers, and "not modified"."""

from __future__ import annotations

import pytest

from node_agent.core.http.static_file import CONTENT_SECURITY_POLICY, StaticFile

FILE = StaticFile("main.js", b"let x;")


def test_a_browser_may_do_no_more_than_the_page_needs() -> None:
    policy = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert policy.pop("default-src") == "'none'"
    assert {policy.pop(name) for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy == {
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    headers = dict(FILE.headers)
    assert headers[b"content-security-policy"].decode() == CONTENT_SECURITY_POLICY
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"referrer-policy"] == b"no-referrer"


@pytest.mark.parametrize(
    ("sent", "is_known"),
    [
        (None, False),
        (b"", False),
        (b'"other"', False),
        (FILE.etag, True),
        (b'"a", W/' + FILE.etag, True),
        (b"*", False),
    ],
)
def test_a_file_that_the_browser_has_is_not_sent_again(sent: bytes | None, is_known: bool) -> None:
    headers = {} if sent is None else {b"if-none-match": sent}
    assert FILE.is_known_to(headers) is is_known


def test_another_content_has_another_etag() -> None:
    assert StaticFile("main.js", b"let y;").etag != FILE.etag
    assert StaticFile("x.css", b"").content_type.startswith(b"text/css")
