"""The network: public subnets in every zone, no NAT, gateway endpoints, and one security group.

Nodes have public addresses so that they need no NAT gateway ($0.045 an hour and a gigabyte); what may come in is the
security group's to say: clients on the front door, the group itself on the peer door, nobody anywhere else.
"""

from __future__ import annotations

from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from node_agent.contract import names
from stacks.settings import FleetSettings

_CIDR = "10.71.0.0/16"
_MAX_ZONES = 3


class Network(Construct):
    """`vpc`, and `group`, the nodes' security group."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings) -> None:
        super().__init__(scope, construct_id)
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(_CIDR),
            max_azs=_MAX_ZONES,
            nat_gateways=0,
            restrict_default_security_group=False,  # its custom resource is a Lambda of its own, for an unused group
            subnet_configuration=[
                ec2.SubnetConfiguration(name="nodes", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=20)
            ],
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.DYNAMODB),
            },
        )
        self.group = ec2.SecurityGroup(
            self, "Nodes", vpc=self.vpc, description=f"Synkti {settings.cluster}: nodes", allow_all_outbound=True
        )
        for cidr in settings.client_cidrs:
            self.group.add_ingress_rule(ec2.Peer.ipv4(cidr), ec2.Port.tcp(names.FRONT_DOOR_PORT), "clients")
        self._let_peers_in(settings)

    def _let_peers_in(self, settings: FleetSettings) -> None:
        # The embedded AWS has no rule that refers to its own group: there the VPC's range stands in.
        peers: ec2.IPeer = ec2.Peer.ipv4(_CIDR) if settings.local else self.group
        self.group.add_ingress_rule(peers, ec2.Port.tcp(names.PEER_DOOR_PORT), "peers")
