"""The network: the VPC that was chosen, gateway endpoints, and the nodes' security group.

A VPC of its own has public subnets only: nodes have public addresses, so that they need no NAT gateway ($0.045 an hour
and a gigabyte). What may come in is the security group's to say: clients on the front door, the group itself on the
peer door, nobody anywhere else.
"""

from __future__ import annotations

from aws_cdk import Fn
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from node_agent.contract import names
from stacks.settings import FleetSettings


class Network(Construct):
    """`vpc`, `subnets` of the nodes, and `group`, their security group."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings) -> None:
        super().__init__(scope, construct_id)
        kind = ec2.SubnetType.PUBLIC if settings.public_addresses else ec2.SubnetType.PRIVATE_WITH_EGRESS
        self.subnets = ec2.SubnetSelection(subnet_type=kind)
        self.vpc = self._vpc(settings)
        if settings.gateway_endpoints and settings.vpc != "new":
            for name, service in _ENDPOINTS.items():
                self.vpc.add_gateway_endpoint(name, service=service, subnets=[self.subnets])
        self.group = ec2.SecurityGroup(
            self, "Nodes", vpc=self.vpc, description=f"Synkti {settings.cluster}: nodes", allow_all_outbound=True
        )
        for cidr in settings.client_cidrs:
            self.group.add_ingress_rule(ec2.Peer.ipv4(cidr), ec2.Port.tcp(names.FRONT_DOOR_PORT), "clients")
        # The embedded AWS has no rule that refers to its own group: there the VPC's range stands in.
        peers: ec2.IPeer = ec2.Peer.ipv4(settings.vpc_cidr) if settings.local else self.group
        self.group.add_ingress_rule(peers, ec2.Port.tcp(names.PEER_DOOR_PORT), "peers")
        self.group.add_ingress_rule(peers, ec2.Port.udp(names.PEER_DOOR_PORT), "peers, membership")

    def _vpc(self, settings: FleetSettings) -> ec2.IVpc:
        if settings.vpc == "default":
            return ec2.Vpc.from_lookup(self, "Vpc", is_default=True)
        if settings.vpc == "existing":
            return ec2.Vpc.from_lookup(self, "Vpc", vpc_id=settings.vpc_id)
        return ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(settings.vpc_cidr),
            # By number, so that it is synthesized without asking an account which zones it has.
            availability_zones=[Fn.select(number, Fn.get_azs()) for number in range(settings.zones)],
            nat_gateways=0,
            restrict_default_security_group=False,  # its custom resource is a Lambda of its own, for an unused group
            subnet_configuration=[ec2.SubnetConfiguration(name="nodes", subnet_type=ec2.SubnetType.PUBLIC)],
            gateway_endpoints={
                name: ec2.GatewayVpcEndpointOptions(service=service)
                for name, service in _ENDPOINTS.items()
                if settings.gateway_endpoints
            },
        )


_ENDPOINTS = {
    "S3": ec2.GatewayVpcEndpointAwsService.S3,
    "DynamoDb": ec2.GatewayVpcEndpointAwsService.DYNAMODB,
}
"""They cost nothing, and what passes them passes no NAT."""
