"""The fleet stack: network, node role, launch template, Auto Scaling group, and the optional load balancer."""

from __future__ import annotations

from aws_cdk import CfnOutput, RemovalPolicy
from aws_cdk import aws_logs as logs
from constructs import Construct

from node_agent.contract import names
from stacks.base_stack import BaseStack
from stacks.constructs.artifact import AGENT, Artifact
from stacks.constructs.boot import boot_variables, version
from stacks.constructs.lambda_package import lambda_code
from stacks.constructs.load_balancer import LoadBalancer
from stacks.constructs.network import Network
from stacks.constructs.node_group import NodeGroup
from stacks.constructs.node_role import NodeRole
from stacks.constructs.node_template import NodeTemplate, machine_image
from stacks.constructs.retention import retention
from stacks.constructs.size_request import SizeRequest
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class FleetStack(BaseStack):
    """Everything that runs nodes."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "fleet", "the nodes")
        log_group = logs.LogGroup(
            self,
            "NodeLogs",
            log_group_name=names.node_log_group_name(settings.cluster),
            retention=retention(settings.log_days),
            removal_policy=RemovalPolicy.DESTROY,
        )
        artifact = Artifact(self, "Agent", AGENT)
        network = Network(self, "Network", settings)
        template = NodeTemplate(
            self,
            "Node",
            settings,
            image=machine_image(settings),
            role=NodeRole(self, "NodeRole", settings, state, artifact, log_group).role,
            group=network.group,
            variables=boot_variables(settings, artifact, state, self.region),
        )
        fleet = NodeGroup(
            self,
            "Fleet",
            settings,
            network=network,
            template=template.template,
            version=version(settings, artifact),
        )
        code = lambda_code(self, layers=not settings.local)
        SizeRequest(self, "Size", settings, group=fleet.group, code=code)
        CfnOutput(self, "AutoScalingGroupName", value=fleet.group.auto_scaling_group_name)
        CfnOutput(self, "ClientKeys", value="required" if settings.api_keys else "off")
        CfnOutput(self, "FleetVersion", value=version(settings, artifact))
        CfnOutput(self, "Model", value=settings.model)
        CfnOutput(self, names.MIN_NODES_OUTPUT, value=str(settings.min_capacity))
        CfnOutput(self, names.MAX_NODES_OUTPUT, value=str(settings.max_capacity))
        if not settings.is_autoscaled:
            CfnOutput(self, names.NODES_OUTPUT, value=str(settings.nodes))
        if settings.load_balancer != "none":
            address = LoadBalancer(self, "Address", settings, network=network, group=fleet.group)
            CfnOutput(self, "Endpoint", value=address.url)
