"""The agent's settings: read once, from environment variables."""

from node_agent.settings.environ import from_environ
from node_agent.settings.fields import AwsSettings, EngineSettings, ReplicationSettings, RequestLimits, Settings

__all__ = ["AwsSettings", "EngineSettings", "ReplicationSettings", "RequestLimits", "Settings", "from_environ"]
