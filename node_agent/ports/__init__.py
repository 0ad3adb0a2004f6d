"""What the agent needs of the outside, as protocols. Each has an adapter for the real thing and a fake in memory.

Every method may raise a TransientError of the contract, and no other error that is expected.
"""

from node_agent.ports.access import AuditLog, KeyStore
from node_agent.ports.aws import Identity, Instances, Metadata, Records, ScalingGroup, Secrets
from node_agent.ports.engine import EngineGroup, EngineSteps
from node_agent.ports.gossip import Datagrams
from node_agent.ports.http import AlternateProtocol, ExchangeLost, Http, Response, ServerRequest
from node_agent.ports.identity import PeerKeys
from node_agent.ports.kv import BlockStore
from node_agent.ports.replication import Checkpoints, LinkListener, ReplicaLink, ReplicaLinks, StreamRecords
from node_agent.ports.tls import Certificate, LoadedCertificate, UnusableCertificateError

__all__ = [
    "AlternateProtocol",
    "AuditLog",
    "BlockStore",
    "Certificate",
    "Checkpoints",
    "Datagrams",
    "EngineGroup",
    "EngineSteps",
    "ExchangeLost",
    "Http",
    "Identity",
    "Instances",
    "KeyStore",
    "LinkListener",
    "LoadedCertificate",
    "Metadata",
    "PeerKeys",
    "Records",
    "ReplicaLink",
    "ReplicaLinks",
    "Response",
    "ScalingGroup",
    "Secrets",
    "ServerRequest",
    "StreamRecords",
    "UnusableCertificateError",
]
