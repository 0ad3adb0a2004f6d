"""The fleet: the network, the nodes' role and launch template, and the Auto Scaling group that keeps them."""

from __future__ import annotations

from pathlib import Path

from aws_cdk import CfnOutput, Duration, Stack, Tags
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.tags import CLUSTER_TAG, ROLE_TAG, WORKER_ROLE
from stacks.parts.network import Network
from stacks.parts.node_role import NodeRole
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

GPU_AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
LOCAL_AMI_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
"""The embedded AWS knows no GPU images."""

_BOOT_SCRIPT = Path(__file__).parent / "boot" / "boot.sh"
_DRAIN = Duration.seconds(120)
"""How long the group waits for a node that it ends itself; EC2 does not wait at all."""


class FleetStack(Stack):
    """Instances come and go; this says which ones to keep."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        name = names.stack_name(settings.cluster, "fleet")
        super().__init__(scope, name, stack_name=name, description=f"Synkti {settings.cluster}: the nodes")
        self._settings = settings
        network = Network(self, "Network", settings)
        role = NodeRole(self, "NodeRole", settings, state)
        group = self._group(network, self._template(network, role, state))
        for key, value in ((CLUSTER_TAG, settings.cluster), (ROLE_TAG, WORKER_ROLE)):
            Tags.of(group).add(key, value, apply_to_launched_instances=True)
        CfnOutput(self, "AutoScalingGroupName", value=group.auto_scaling_group_name)

    def _template(self, network: Network, role: NodeRole, state: StateStack) -> ec2.LaunchTemplate:
        root = ec2.BlockDevice(
            device_name="/dev/sda1",
            volume=ec2.BlockDeviceVolume.ebs(
                self._settings.root_gib,
                encrypted=True,
                volume_type=ec2.EbsDeviceVolumeType.GP3,
                delete_on_termination=True,
            ),
        )
        return ec2.LaunchTemplate(
            self,
            "Template",
            launch_template_name=f"{self._settings.cluster}-node",
            machine_image=ec2.MachineImage.from_ssm_parameter(
                LOCAL_AMI_PARAMETER if self._settings.local else GPU_AMI_PARAMETER
            ),
            instance_type=ec2.InstanceType(self._settings.instance_types[0]),
            role=role.role,
            security_group=network.group,
            associate_public_ip_address=True,
            block_devices=[root],
            http_endpoint=True,
            http_put_response_hop_limit=1,
            require_imdsv2=True,
            instance_metadata_tags=False,
            user_data=self._user_data(state),
        )

    def _user_data(self, state: StateStack) -> ec2.UserData:
        """The boot script, after the few lines that tell it which fleet this is."""
        user_data = ec2.UserData.for_linux()
        user_data.add_commands(
            f"export SYNKTI_CLUSTER={self._settings.cluster}",
            f"export SYNKTI_MODEL_NAME={self._settings.model}",
            f"export SYNKTI_MODELS_BUCKET={state.models.bucket_name}",
            f"export AWS_REGION={self.region}",
        )
        user_data.add_commands(*_BOOT_SCRIPT.read_text().splitlines()[1:])
        return user_data

    def _group(self, network: Network, template: ec2.LaunchTemplate) -> autoscaling.AutoScalingGroup:
        settings = self._settings
        overrides = [
            autoscaling.LaunchTemplateOverrides(instance_type=ec2.InstanceType(kind))
            for kind in settings.instance_types
        ]
        group = autoscaling.AutoScalingGroup(
            self,
            "Fleet",
            auto_scaling_group_name=names.auto_scaling_group_name(settings.cluster),
            vpc=network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
            min_capacity=0,
            max_capacity=settings.nodes * 2,
            desired_capacity=settings.nodes,
            capacity_rebalance=True,
            mixed_instances_policy=autoscaling.MixedInstancesPolicy(
                launch_template=template,
                launch_template_overrides=overrides,
                instances_distribution=autoscaling.InstancesDistribution(
                    on_demand_base_capacity=settings.on_demand_base,
                    on_demand_percentage_above_base_capacity=0,
                    spot_allocation_strategy=autoscaling.SpotAllocationStrategy.PRICE_CAPACITY_OPTIMIZED,
                ),
            ),
        )
        group.add_lifecycle_hook(
            "Drained",
            lifecycle_transition=autoscaling.LifecycleTransition.INSTANCE_TERMINATING,
            default_result=autoscaling.DefaultResult.CONTINUE,
            heartbeat_timeout=_DRAIN,
        )
        return group
