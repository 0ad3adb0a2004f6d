"""Secrets Manager: the cluster's key. What is read stays in memory and never reaches a log."""

from __future__ import annotations

from typing import Any

from node_agent.adapters.aws import in_thread


class SecretsManager:
    """The Secrets port, over a boto3 client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def read(self, name: str) -> bytes:
        answer = await in_thread(f"reading the secret {name}", lambda: self._client.get_secret_value(SecretId=name))
        text = answer.get("SecretString")
        return text.encode() if text is not None else bytes(answer["SecretBinary"])
