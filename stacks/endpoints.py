"""The services that a node calls, by the names of their VPC endpoints. Standard library only.

A test compares them with the permissions of the nodes' role.
"""

from __future__ import annotations

GATEWAY_SERVICES = frozenset({"dynamodb", "s3"})
"""Reached through routes, for nothing."""

INTERFACE_SERVICES = frozenset(
    {"autoscaling", "ec2", "events", "logs", "monitoring", "secretsmanager", "ssm", "ssmmessages"}
)
"""Reached through an address in each subnet, which costs by the hour and the gigabyte. monitoring: CloudWatch."""
