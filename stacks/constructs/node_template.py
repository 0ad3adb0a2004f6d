"""The launch template of the nodes' instances."""

from __future__ import annotations

import jsii
from aws_cdk import Annotations, Size, Tags
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from node_agent.contract import names
from stacks.base_image import GPU_AMI_PARAMETER
from stacks.constructs.boot import MAX_USER_DATA_BYTES, user_data
from stacks.settings import FleetSettings

LOCAL_AMI_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
"""The embedded AWS has no GPU images."""

ROOT_DEVICE = "/dev/sda1"


@jsii.implements(ec2.IMachineImage)
class ImageById:
    """A machine image by its id. Unlike the CDK's own class it needs no region."""

    def __init__(self, image_id: str) -> None:
        self._image_id = image_id

    def get_image(self, scope: Construct) -> ec2.MachineImageConfig:
        """Implement ec2.IMachineImage."""
        return ec2.MachineImageConfig(
            image_id=self._image_id, os_type=ec2.OperatingSystemType.LINUX, user_data=ec2.UserData.for_linux()
        )


def machine_image(settings: FleetSettings) -> ec2.IMachineImage:
    """Return the configured image, that of the image stack, or AWS's: the pinned one, else the newest."""
    if settings.image_id:
        return ImageById(settings.image_id)
    if settings.bake_image:
        return ec2.MachineImage.from_ssm_parameter(names.image_parameter_name(settings.cluster))
    if settings.base_image_id:
        return ImageById(settings.base_image_id)
    return ec2.MachineImage.from_ssm_parameter(LOCAL_AMI_PARAMETER if settings.local else GPU_AMI_PARAMETER)


class NodeTemplate(Construct):
    """The launch template (`template`), whose newest version the group launches."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        *,
        image: ec2.IMachineImage,
        role: iam.IRole,
        group: ec2.ISecurityGroup,
        variables: dict[str, str],
    ) -> None:
        super().__init__(scope, construct_id)
        script = user_data(variables)
        if len(script.encode()) > MAX_USER_DATA_BYTES:
            raise AssertionError(f"the user data has {len(script.encode())} bytes, more than EC2 accepts")
        rate = settings.root_initialization_mib_per_s
        root = ec2.BlockDeviceVolume.ebs(
            settings.root_gib,
            encrypted=True,
            volume_type=ec2.EbsDeviceVolumeType.GP3,
            throughput=settings.root_mib_per_s,
            volume_initialization_rate=Size.mebibytes(rate) if rate else None,
            delete_on_termination=True,
        )
        self.template = ec2.LaunchTemplate(
            self,
            "Template",
            launch_template_name=f"{settings.cluster}-node",
            machine_image=image,
            # No instance type: the group names them all, and one that the region lacks would be refused here, too.
            role=role,
            security_group=group,
            associate_public_ip_address=settings.public_addresses,
            block_devices=[ec2.BlockDevice(device_name=ROOT_DEVICE, volume=root)],
            # A node that cannot serve powers its instance off; see stacks/boot/give-up.sh.
            instance_initiated_shutdown_behavior=ec2.InstanceInitiatedShutdownBehavior.TERMINATE,
            http_endpoint=True,
            http_put_response_hop_limit=1,
            require_imdsv2=True,
            instance_metadata_tags=False,
            user_data=ec2.UserData.custom(script),
        )
        if settings.has_floating_image:
            Annotations.of(self).add_warning_v2(
                "synkti:newest-image",
                "each deployment takes AWS's newest image, and may replace all nodes; synkti "
                "bootstrap pins it (base_image_id)",
            )
        Tags.of(self.template).add("Name", f"{settings.cluster}-node")
