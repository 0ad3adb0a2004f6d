"""The network: the configured VPC, gateway endpoints, and the nodes' security group.

A new VPC has public subnets only: nodes have public addresses, so that they need no NAT gateway ($0.045 an hour and a
gigabyte). The security group admits clients to the client API's port, whoever collects metrics to the admin listener's
port, and the group itself to the peer API's port, nothing else.
"""

from __future__ import annotations

from aws_cdk import Annotations, Fn, Stack
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from node_agent.contract import names
from stacks.endpoints import INTERFACE_SERVICES
from stacks.settings import FleetSettings

_HTTPS = 443


class Network(Construct):
    """The VPC (`vpc`), the nodes' subnets (`subnets`) and their security group (`group`)."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings) -> None:
        super().__init__(scope, construct_id)
        if settings.vpc == "new":
            self.vpc: ec2.IVpc = self._new_vpc(settings)
            self.subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)
        else:
            self.vpc = existing_vpc(self, settings)
            self.subnets = ec2.SubnetSelection(subnets=existing_subnets(self, settings))
            self._add_gateway_endpoints(settings)
        self.group = ec2.SecurityGroup(
            self, "Nodes", vpc=self.vpc, description=f"Synkti {settings.cluster}: nodes", allow_all_outbound=True
        )
        if settings.interface_endpoints:
            self._add_interface_endpoints(settings)
        for cidr in settings.client_cidrs:
            self.group.add_ingress_rule(ec2.Peer.ipv4(cidr), ec2.Port.tcp(names.FRONT_DOOR_PORT), "clients")
        for cidr in settings.metrics_cidrs:
            self.group.add_ingress_rule(ec2.Peer.ipv4(cidr), ec2.Port.tcp(names.ADMIN_PORT), "metrics")
        # The embedded AWS does not support rules that refer to their own group; use the VPC's range there.
        peers: ec2.IPeer = ec2.Peer.ipv4(settings.vpc_cidr) if settings.local else self.group
        self.group.add_ingress_rule(peers, ec2.Port.tcp(names.PEER_DOOR_PORT), "peers")
        self.group.add_ingress_rule(peers, ec2.Port.udp(names.PEER_DOOR_PORT), "peers, membership")

    def _add_gateway_endpoints(self, settings: FleetSettings) -> None:
        if not settings.gateway_endpoints:
            return
        for name, service in _ENDPOINTS.items():
            ec2.CfnVPCEndpoint(
                self,
                name,
                vpc_id=settings.vpc_id,
                service_name=service.name,
                vpc_endpoint_type="Gateway",
                route_table_ids=list(settings.route_table_ids),
            )

    def _add_interface_endpoints(self, settings: FleetSettings) -> None:
        """Let nodes without a way out call the other services, whose names resolve to the endpoints in the VPC."""
        group = ec2.SecurityGroup(
            self,
            "Endpoints",
            vpc=self.vpc,
            description=f"Synkti {settings.cluster}: endpoints",
            allow_all_outbound=False,
        )
        group.add_ingress_rule(self.group, ec2.Port.tcp(_HTTPS), "nodes")
        for service in sorted(INTERFACE_SERVICES):
            ec2.CfnVPCEndpoint(
                self,
                f"To{service.title()}",
                vpc_id=settings.vpc_id,
                service_name=f"com.amazonaws.{Stack.of(self).region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=list(settings.subnet_ids),
                security_group_ids=[group.security_group_id],
            )

    def _new_vpc(self, settings: FleetSettings) -> ec2.IVpc:
        return ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(settings.vpc_cidr),
            # By number, so that synthesis needs no request to an account for its zones.
            availability_zones=[Fn.select(number, Fn.get_azs()) for number in range(settings.zones)],
            nat_gateways=0,
            restrict_default_security_group=False,  # it would add a Lambda, for a group that is not used
            subnet_configuration=[ec2.SubnetConfiguration(name="nodes", subnet_type=ec2.SubnetType.PUBLIC)],
            gateway_endpoints={
                name: ec2.GatewayVpcEndpointOptions(service=service)
                for name, service in _ENDPOINTS.items()
                if settings.gateway_endpoints
            },
        )


def existing_vpc(scope: Construct, settings: FleetSettings) -> ec2.IVpc:
    """Return the configured VPC by its id, without a lookup. Its zones are not needed: subnets are chosen by id."""
    return ec2.Vpc.from_vpc_attributes(
        scope, "Vpc", vpc_id=settings.vpc_id, availability_zones=[Fn.select(0, Fn.get_azs())]
    )


def existing_subnets(scope: Construct, settings: FleetSettings) -> list[ec2.ISubnet]:
    """Return the configured subnets by their ids, without a lookup."""
    found = []
    for subnet_id in settings.subnet_ids:
        subnet = ec2.Subnet.from_subnet_id(scope, f"Subnet{subnet_id}", subnet_id)
        Annotations.of(subnet).acknowledge_warning("@aws-cdk/aws-ec2:noSubnetRouteTableId")
        found.append(subnet)
    return found


_ENDPOINTS = {
    "S3": ec2.GatewayVpcEndpointAwsService.S3,
    "DynamoDb": ec2.GatewayVpcEndpointAwsService.DYNAMODB,
}
"""Gateway endpoints are free, and their traffic does not pass a NAT gateway."""
