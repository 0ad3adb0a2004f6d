"""Build a machine image for nodes with EC2 Image Builder: the recipe, and the build instance.

The image contains what takes long to install: vLLM and the agent's packages, installed by the same script and from the
same lock files as on a node that boots without an image, and optionally the model. It does not contain the agent,
which is a download of less than a megabyte.
"""

from __future__ import annotations

import hashlib
import json
from textwrap import indent

from aws_cdk import Fn, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_imagebuilder as imagebuilder
from constructs import Construct

from node_agent.contract import environment as env
from node_agent.contract.models import model_prefix
from stacks.base_image import GPU_AMI_PARAMETER
from stacks.constructs.artifact import Artifact
from stacks.constructs.network import existing_vpc
from stacks.constructs.node_role import wheelhouse_policies
from stacks.constructs.node_template import ROOT_DEVICE
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

_BUILD_TYPES = ["m7i.xlarge", "m6i.xlarge", "m5.xlarge"]
"""Unpacking wheels needs no GPU."""

_BUILD_CIDR = "10.72.0.0/24"


def build_steps(settings: FleetSettings, artifact: Artifact, state: StateStack, region: str) -> str:
    """Return the shell commands of the build."""
    release = "/opt/synkti/image-release"
    steps = [
        "set -euo pipefail",
        f"export AWS_REGION={region} AWS_DEFAULT_REGION={region} {env.MODELS_BUCKET}={state.models.bucket_name}",
        f"mkdir -p {release}",
        f"aws s3 cp --only-show-errors {artifact.url} /tmp/synkti.tar",
        f'echo "{artifact.sha256}  /tmp/synkti.tar" | sha256sum --check --quiet',
        f"tar --extract --file /tmp/synkti.tar --directory {release} --no-same-owner",
        f"{release}/stacks/boot/install.sh {release}",
    ]
    if settings.bake_model:
        steps += [
            f"export {env.MODEL_NAME}={settings.model} {env.MODEL_SHA256}={settings.model_sha256}",
            f"cd {release}",
            f"/opt/synkti/agent/bin/python -m node_agent.fetch_model --to /opt/synkti/baked-models/{settings.model}",
        ]
    return "\n".join([*steps, "rm /tmp/synkti.tar"]) + "\n"


class ImageBuild(Construct):
    """Builds the image during the deployment, which takes half an hour or more. `image_id`: its id, afterwards."""

    def __init__(
        self, scope: Construct, construct_id: str, settings: FleetSettings, state: StateStack, artifact: Artifact
    ) -> None:
        super().__init__(scope, construct_id)
        name = f"{settings.cluster}-node-{image_digest(settings, artifact)}"
        steps = build_steps(settings, artifact, state, Stack.of(self).region)
        component = imagebuilder.CfnComponent(
            self, "Component", name=name, version="1.0.0", platform="Linux", data=_document(steps)
        )
        recipe = imagebuilder.CfnImageRecipe(
            self,
            "Recipe",
            name=name,
            version="1.0.0",
            parent_image=settings.base_image_id or f"ssm:{GPU_AMI_PARAMETER}",
            components=[{"componentArn": component.attr_arn}],
            block_device_mappings=[
                imagebuilder.CfnImageRecipe.InstanceBlockDeviceMappingProperty(
                    device_name=ROOT_DEVICE,
                    ebs=imagebuilder.CfnImageRecipe.EbsInstanceBlockDeviceSpecificationProperty(
                        volume_size=settings.root_gib, volume_type="gp3", encrypted=True, delete_on_termination=True
                    ),
                )
            ],
        )
        role = self._role(settings, state, artifact, component)
        infrastructure = self._infrastructure_configuration(name, settings, role)
        image = imagebuilder.CfnImage(
            self,
            "Image",
            image_recipe_arn=recipe.attr_arn,
            infrastructure_configuration_arn=infrastructure.attr_arn,
            enhanced_image_metadata_enabled=False,
            # A node that cannot serve terminates itself; Image Builder's test on a second instance would add nothing.
            image_tests_configuration=imagebuilder.CfnImage.ImageTestsConfigurationProperty(image_tests_enabled=False),
        )
        image.node.add_dependency(role)  # and on its policy: the build instance uses it from its start
        self.image_id = image.attr_image_id

    def _role(
        self, settings: FleetSettings, state: StateStack, artifact: Artifact, component: imagebuilder.CfnComponent
    ) -> iam.Role:
        role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), description="Builds node images"
        )
        statements = (
            artifact.read_policy(),
            *wheelhouse_policies(state),
            *_build_policies(component),
            *_model_policies(settings, state),
        )
        for statement in statements:
            role.add_to_policy(statement)
        return role

    def _infrastructure_configuration(
        self, name: str, settings: FleetSettings, role: iam.Role
    ) -> imagebuilder.CfnInfrastructureConfiguration:
        profile = iam.CfnInstanceProfile(self, "Profile", roles=[role.role_name])
        vpc, subnet_id = _build_place(self, settings)
        group = ec2.SecurityGroup(self, "Closed", vpc=vpc, description="Image builds: nothing comes in")
        return imagebuilder.CfnInfrastructureConfiguration(
            self,
            "Infrastructure",
            name=name,
            instance_profile_name=profile.ref,
            instance_types=_BUILD_TYPES,
            instance_metadata_options=imagebuilder.CfnInfrastructureConfiguration.InstanceMetadataOptionsProperty(
                http_tokens="required", http_put_response_hop_limit=1
            ),
            subnet_id=subnet_id,
            security_group_ids=[group.security_group_id],
            terminate_instance_on_failure=True,
        )


def image_digest(settings: FleetSettings, artifact: Artifact) -> str:
    """Return a hash of everything that needs a new image. Recipes are immutable, so a new one needs a new name."""
    model = settings.bake_model and [settings.model, settings.model_sha256]
    inputs = [artifact.sha256, settings.root_gib, settings.base_image_id, model]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]


def _document(steps: str) -> str:
    return (
        "schemaVersion: 1.0\n"
        "phases:\n"
        "  - name: build\n"
        "    steps:\n"
        "      - name: Install\n"
        "        action: ExecuteBash\n"
        "        timeoutSeconds: 7200\n"
        "        inputs:\n"
        "          commands:\n"
        "            - |\n" + indent(steps, " " * 14)
    )


def _build_place(scope: Construct, settings: FleetSettings) -> tuple[ec2.IVpc, str]:
    """Return the build's VPC and subnet: the first one of the nodes, public or not.

    A new fleet's VPC is created after the image, so the build has a small one (free).
    """
    if settings.vpc != "new":
        return existing_vpc(scope, settings), settings.subnet_ids[0]
    vpc = ec2.Vpc(
        scope,
        "Vpc",
        ip_addresses=ec2.IpAddresses.cidr(_BUILD_CIDR),
        availability_zones=[Fn.select(0, Fn.get_azs())],
        nat_gateways=0,
        restrict_default_security_group=False,
        subnet_configuration=[ec2.SubnetConfiguration(name="build", subnet_type=ec2.SubnetType.PUBLIC)],
    )
    return vpc, vpc.public_subnets[0].subnet_id


def _build_policies(component: imagebuilder.CfnComponent) -> tuple[iam.PolicyStatement, ...]:
    """Let Image Builder's agent on the build instance read its component and programs, and receive commands by SSM."""
    return (
        iam.PolicyStatement(sid="ReadComponent", actions=["imagebuilder:GetComponent"], resources=[component.attr_arn]),
        iam.PolicyStatement(
            sid="ReadImageBuilder", actions=["s3:GetObject"], resources=["arn:aws:s3:::ec2imagebuilder*"]
        ),
        iam.PolicyStatement(
            sid="TakeOrders",
            actions=[
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
                "ec2messages:AcknowledgeMessage",
                "ec2messages:DeleteMessage",
                "ec2messages:FailMessage",
                "ec2messages:GetEndpoint",
                "ec2messages:GetMessages",
                "ec2messages:SendReply",
            ],
            resources=["*"],
        ),
    )


def _model_policies(settings: FleetSettings, state: StateStack) -> tuple[iam.PolicyStatement, ...]:
    if not settings.bake_model:
        return ()
    model = model_prefix(settings.model)
    return (
        iam.PolicyStatement(
            sid="ReadModel", actions=["s3:GetObject"], resources=[state.models.arn_for_objects(f"{model}*")]
        ),
        iam.PolicyStatement(
            sid="ListModel",
            actions=["s3:ListBucket"],
            resources=[state.models.bucket_arn],
            conditions={"StringLike": {"s3:prefix": [model, f"{model}*"]}},
        ),
    )
