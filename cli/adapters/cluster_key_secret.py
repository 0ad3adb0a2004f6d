"""The secret with the cluster's keys."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from cli.aws_errors import error_code
from cli.errors import Failed, NotFound
from node_agent.core.common.cluster_keys import ClusterKeySet, parse_cluster_keys


class ClusterKeySecret:
    """Reads and writes the keys. client: boto3's of Secrets Manager. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def read(self) -> ClusterKeySet:
        """Return the keys.

        Raises:
            NotFound: There is no such secret.
            Failed: It holds no keys; the message quotes nothing of it.
            ClientError: AWS refuses for another reason.
        """
        try:
            answer = self._client.get_secret_value(SecretId=self._name)
        except ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            raise NotFound(f"there is no secret {self._name}", "continue with synkti bootstrap") from error
        value = answer.get("SecretString") or answer.get("SecretBinary") or b""
        try:
            return parse_cluster_keys(value.encode() if isinstance(value, str) else bytes(value))
        except ValueError as error:
            advice = f"restore an earlier version of the secret {self._name}; nodes keep the keys that they have"
            raise Failed(str(error), advice) from None

    def write(self, keys: ClusterKeySet) -> None:
        """Write the keys as the secret's next version."""
        self._client.put_secret_value(SecretId=self._name, SecretString=keys.to_document())
