"""Read the cluster's key from Secrets Manager. It stays in memory and never reaches a log."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from node_agent.adapters.aws import aws_threads, in_thread
from node_agent.contract.errors import StoreUnavailable


class SecretsManager:
    """The Secrets port, over a boto3 client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._threads = aws_threads("secretsmanager")

    async def read(self, name: str) -> bytes:
        """Return a secret's bytes, a text in UTF-8. Raises StoreUnavailable, whose message never quotes it."""

        def call() -> bytes:
            answer = self._client.get_secret_value(SecretId=name)
            value = answer.get("SecretString") or answer.get("SecretBinary")
            if not isinstance(value, str | bytes | bytearray) or not value:
                raise ValueError("neither a text nor bytes")
            return value.encode() if isinstance(value, str) else bytes(value)

        what = f"reading the secret {name}"
        try:
            return await in_thread(what, call, self._threads)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, BotoCoreError | ClientError | TimeoutError):
                raise
        # A parser's error over a broken answer would quote it.
        raise StoreUnavailable(f"{what}: an answer that cannot be read")
