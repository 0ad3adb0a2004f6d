"""Read and edit the document of clients' keys: a secret of Secrets Manager, or a file.

Two edits at once both take effect: an edit is repeated on the newer document where another one came first.

A secret's current version is the one with the label AWSCURRENT. An edit stores its document as a version with a label
of its own, then moves AWSCURRENT from the version that it has read: AWS refuses that where another version is current
by then.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from botocore.exceptions import ClientError

from cli.aws_errors import error_code
from cli.errors import Failed, NotFound
from node_agent.core.access.key_document import MAX_DOCUMENT_BYTES, KeyDocument, parse_key_document

_CURRENT = "AWSCURRENT"
_MAX_ATTEMPTS = 8
_NOT_CURRENT = ("InvalidParameterException", "InvalidRequestException")
"""What AWS answers where AWSCURRENT is at another version than the edit has read."""

_T = TypeVar("_T")
Edit = Callable[[KeyDocument], tuple[KeyDocument, _T]]


class KeyDocuments(Protocol):
    """Where a cluster's key document lies."""

    def read(self) -> KeyDocument:
        """Return the document. Raises CliError, AWS's errors."""
        ...

    def edit(self, change: Edit[_T]) -> _T:
        """Change the document; `change` may be called again. Returns what it returns beside the document."""
        ...


class SecretKeyDocuments:
    """The document in a secret. client: boto3's of Secrets Manager; name: of the secret."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def read(self) -> KeyDocument:
        """Return the current document. Raises NotFound without the secret, Failed for one that is no key document."""
        return self._read()[0]

    def edit(self, change: Edit[_T]) -> _T:
        """Change the document. Raises Failed where others change it all the time; `change`'s and AWS's errors."""
        for _ in range(_MAX_ATTEMPTS):
            document, version = self._read()
            changed, result = change(document)
            if self._replace(version, changed.to_bytes().decode()):
                return result
        raise Failed(f"{self._name} was changed by others {_MAX_ATTEMPTS} times in a row", "run the command again")

    def _read(self) -> tuple[KeyDocument, str]:
        try:
            answer = self._client.get_secret_value(SecretId=self._name, VersionStage=_CURRENT)
        except ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            message = f"there is no secret {self._name}"
            raise NotFound(message, "synkti bootstrap creates it, with api_keys = true in synkti.toml") from error
        return _parse(str(answer.get("SecretString", "")).encode(), self._name), str(answer["VersionId"])

    def _replace(self, version: str, text: str) -> bool:
        """Make a text current in place of a version; return False where that version is not current any more."""
        mine, label = str(uuid.uuid4()), f"synkti-edit-{uuid.uuid4().hex[:12]}"
        self._client.put_secret_value(
            SecretId=self._name, ClientRequestToken=mine, SecretString=text, VersionStages=[label]
        )
        try:
            self._client.update_secret_version_stage(
                SecretId=self._name, VersionStage=_CURRENT, MoveToVersionId=mine, RemoveFromVersionId=version
            )
        except ClientError as error:
            if error_code(error) not in _NOT_CURRENT:
                raise
            return False
        finally:
            # A version without a label is deleted by AWS.
            self._client.update_secret_version_stage(SecretId=self._name, VersionStage=label, RemoveFromVersionId=mine)
        return True


class FileKeyDocuments:
    """The document in a file that only its owner may read. new_pepper: of a document that does not exist yet."""

    def __init__(self, path: Path, new_pepper: str) -> None:
        self._path = path
        self._new_pepper = new_pepper

    def read(self) -> KeyDocument:
        """Return the document. Raises NotFound without the file, Failed where it is no key document."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_DOCUMENT_BYTES + 1)
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {self._path}", "synkti keys create NAME --file makes it") from error
        except OSError as error:
            raise Failed(f"{self._path} cannot be read: {error.strerror}") from error
        return _parse(content, str(self._path))

    def edit(self, change: Edit[_T]) -> _T:
        """Change the document, or begin one. Raises Failed where the file cannot be written, `change`'s errors."""
        try:
            descriptor = os.open(f"{self._path}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise Failed(f"{self._path}.lock cannot be written: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = self.read() if self._path.exists() else KeyDocument(self._new_pepper.encode())
            changed, result = change(document)
            self._write(changed.to_bytes())
        return result

    def _write(self, content: bytes) -> None:
        """Replace the file at once: a node that reads it has the old or the new one, with mode 0600."""
        new = Path(f"{self._path}.new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise Failed(f"{self._path} cannot be written: {error.strerror}") from error


def _parse(content: bytes, where: str) -> KeyDocument:
    try:
        return parse_key_document(content)
    except ValueError as error:
        raise Failed(f"{where} is no key document: {error}", "restore an older version of it") from error
