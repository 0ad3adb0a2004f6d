"""The optional network load balancer: one address for the fleet, which does not cut streams.

A node that drains fails its health check on purpose while it still has clients, so neither an unhealthy nor a
deregistered target loses connections (docs/decisions/0013-a-balancer-that-cuts-nothing.md).

A certificate is for a name, and none can be for the name that AWS gives a load balancer. So TLS needs `domain`. Where
its hosted zone is in Route 53, the record and the certificate are made here.
"""

from __future__ import annotations

from aws_cdk import Annotations, Duration
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as route53_targets
from constructs import Construct

from node_agent.contract import names
from stacks.constructs.network import Network
from stacks.rollout import DRAIN_S
from stacks.settings import FleetSettings

_HTTPS, _HTTP = 443, 80
_IDLE_TIMEOUT = Duration.seconds(900)
"""A request without streaming sends nothing until its response; a stream is silent for 15 s at most. The timeout of
TLS listeners is fixed at 350 s."""


class LoadBalancer(Construct):
    """The load balancer. `url`: its address for clients."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        *,
        network: Network,
        group: autoscaling.AutoScalingGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        public = settings.load_balancer == "public"
        tls = settings.has_tls
        port = _HTTPS if tls else _HTTP
        # By its id: the zone's name may be that of a domain above, and is not needed.
        self._zone = (
            route53.HostedZone.from_hosted_zone_attributes(
                self, "Zone", hosted_zone_id=settings.hosted_zone_id, zone_name=settings.domain
            )
            if settings.hosted_zone_id
            else None
        )
        if public and not tls:
            Annotations.of(self).add_warning_v2(
                "synkti:plain-http", "prompts and answers cross the internet in the clear; set domain"
            )
        doors = self._doors(settings, network, port)
        balancer = elb.NetworkLoadBalancer(
            self,
            "Balancer",
            vpc=network.vpc,
            internet_facing=public,
            vpc_subnets=network.subnets,
            security_groups=[doors],
            cross_zone_enabled=True,
        )
        balancer.add_listener(
            "Listener",
            port=port,
            protocol=elb.Protocol.TLS if tls else elb.Protocol.TCP,
            certificates=[self._certificate(settings)] if tls else None,
            ssl_policy=elb.SslPolicy.RECOMMENDED_TLS if tls else None,
            tcp_idle_timeout=None if tls else _IDLE_TIMEOUT,
            default_target_groups=[self._targets(network, group)],
        )
        if self._zone is not None:
            target = route53.RecordTarget.from_alias(route53_targets.LoadBalancerTarget(balancer))
            route53.ARecord(self, "Record", zone=self._zone, record_name=f"{settings.domain}.", target=target)
        self.url = f"{'https' if tls else 'http'}://{settings.domain or balancer.load_balancer_dns_name}"

    def _doors(self, settings: FleetSettings, network: Network, port: int) -> ec2.SecurityGroup:
        """Return the balancer's security group, which admits clients; the nodes' one admits the balancer."""
        doors = ec2.SecurityGroup(self, "Doors", vpc=network.vpc, description=f"Synkti {settings.cluster}: clients")
        for cidr in settings.client_cidrs:
            doors.add_ingress_rule(ec2.Peer.ipv4(cidr), ec2.Port.tcp(port), "clients")
        network.group.add_ingress_rule(doors, ec2.Port.tcp(names.FRONT_DOOR_PORT), "the load balancer")
        return doors

    def _certificate(self, settings: FleetSettings) -> elb.IListenerCertificate:
        if settings.certificate_arn:
            return elb.ListenerCertificate.from_arn(settings.certificate_arn)
        # ACM proves the name by a record in the zone, and renews the certificate as long as that record is there.
        validation = acm.CertificateValidation.from_dns(self._zone)
        certificate = acm.Certificate(self, "Certificate", domain_name=settings.domain, validation=validation)
        return elb.ListenerCertificate.from_certificate_manager(certificate)

    def _targets(self, network: Network, group: autoscaling.AutoScalingGroup) -> elb.NetworkTargetGroup:
        targets = elb.NetworkTargetGroup(
            self,
            "Nodes",
            vpc=network.vpc,
            port=names.FRONT_DOOR_PORT,
            protocol=elb.Protocol.TCP,
            deregistration_delay=Duration.seconds(DRAIN_S),
            connection_termination=False,
            health_check=elb.HealthCheck(
                protocol=elb.Protocol.HTTP,
                path="/readyz",
                interval=Duration.seconds(5),
                timeout=Duration.seconds(2),
                healthy_threshold_count=2,
                unhealthy_threshold_count=2,
            ),
        )
        targets.set_attribute("target_health_state.unhealthy.connection_termination.enabled", "false")
        targets.set_attribute("target_health_state.unhealthy.draining_interval_seconds", str(DRAIN_S))
        group.attach_to_network_target_group(targets)
        return targets
