"""Read the form of an audio request, and write it again with the fields that an engine may receive.

A form is written anew because two parsers may read one differently: what this one has not read cannot hide behind a
boundary or a header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from node_agent.contract.errors import RequestRejected

MAX_PARTS = 64
_MAX_TEXT_BYTES = 64 * 1024
"""Of a field that is no file."""

_CONTENT_TYPE = re.compile(
    rb"multipart/form-data\s*;\s*boundary=(?:\"([\w'()+,./:=?-]{1,70})\"|([\w'+.-]{1,70}))\s*\Z", re.IGNORECASE
)
_DISPOSITION = re.compile(
    rb'form-data\s*;\s*name="([^"\\\r\n]{1,64})"(?:\s*;\s*filename="([^"\\\r\n\0]{0,255})")?\s*\Z', re.IGNORECASE
)
_MEDIA_TYPE = re.compile(rb"[\w.+-]{1,64}/[\w.+-]{1,64}(?:\s*;[\w.+=; -]{0,64})?\Z")


@dataclass(frozen=True)
class FormField:
    """A field of a form. filename: None where it is no file; media_type: as sent, b"" for none."""

    name: str
    content: bytes
    filename: bytes | None = None
    media_type: bytes = b""


def form_boundary(content_type: bytes) -> bytes | None:
    """Return the boundary of a form; None where the content type is of another kind."""
    found = _CONTENT_TYPE.match(content_type)
    return (found[1] or found[2]) if found else None


def read_form(body: bytes, boundary: bytes) -> list[FormField]:
    """Parse a form. Raises RequestRejected (400) where anything in it is ambiguous."""
    mark = b"--" + boundary
    begin, *parts = (b"\r\n" + body).split(b"\r\n" + mark)
    if begin or len(parts) < 1 or parts[-1].rstrip(b"\r\n") != b"--":
        raise _malformed("it does not begin and end with its boundary")
    if len(parts) - 1 > MAX_PARTS:
        raise _malformed(f"it has more than {MAX_PARTS} parts")
    return [_read_part(part) for part in parts[:-1]]


def _read_part(part: bytes) -> FormField:
    head, end, content = part.partition(b"\r\n\r\n")
    if not end or not head.startswith(b"\r\n"):
        raise _malformed("a part has no headers")
    headers: dict[bytes, bytes] = {}
    for line in head[2:].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or name.lower() in headers:
            raise _malformed("a part has a header twice, or a line that is no header")
        headers[name.lower()] = value.strip()
    found = _DISPOSITION.match(headers.get(b"content-disposition", b""))
    if found is None:
        raise _malformed('a part has no Content-Disposition with name="..."')
    if found[2] is None and len(content) > _MAX_TEXT_BYTES:
        raise _malformed(f"a field has more than {_MAX_TEXT_BYTES} bytes")
    media_type = headers.get(b"content-type", b"")
    known = media_type if _MEDIA_TYPE.match(media_type) else b""
    return FormField(found[1].decode("utf-8", "replace"), content, found[2], known)


def write_form(fields: list[FormField], boundary: bytes) -> bytes:
    """Write a form. boundary: one that is in no field's content, as that of the form that they were read from."""
    parts = []
    for each in fields:
        filename = b"" if each.filename is None else b'; filename="%b"' % each.filename
        media_type = b"\r\ncontent-type: %b" % each.media_type if each.media_type else b""
        head = b'content-disposition: form-data; name="%b"%b%b' % (each.name.encode(), filename, media_type)
        parts.append(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, each.content))
    return b"".join(parts) + b"--%b--\r\n" % boundary


def _malformed(message: str) -> RequestRejected:
    return RequestRejected(400, "invalid_form", f"The form cannot be read: {message}.")
