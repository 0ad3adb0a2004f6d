"""The image stack: with `bake_image`, a machine image that contains everything that takes long to install."""

from __future__ import annotations

from aws_cdk import CfnOutput
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from node_agent.contract import names
from stacks.base_stack import BaseStack
from stacks.constructs.artifact import DEPENDENCIES, MODEL_DOWNLOADER, Artifact
from stacks.constructs.image_build import ImageBuild
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class ImageStack(BaseStack):
    """Stores the image's id in an SSM parameter for the fleet: an exported value could not change while in use."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "image", "the nodes' machine image")
        wanted = (*DEPENDENCIES, *MODEL_DOWNLOADER) if settings.bake_model else DEPENDENCIES
        artifact = Artifact(self, "Dependencies", wanted)
        image_id = ImageBuild(self, "Build", settings, state, artifact).image_id
        ssm.StringParameter(
            self,
            "Newest",
            parameter_name=names.image_parameter_name(settings.cluster),
            description="The machine image that nodes are launched from",
            string_value=image_id,
            data_type=ssm.ParameterDataType.AWS_EC2_IMAGE,
        )
        CfnOutput(self, "ImageId", value=image_id)
