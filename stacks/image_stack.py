"""The image: where `bake_image` is on, a machine image with everything in it that takes long to install."""

from __future__ import annotations

from aws_cdk import CfnOutput
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from node_agent.contract import names
from stacks.base_stack import FleetPart
from stacks.constructs.artifact import DEPENDENCIES, FETCHING, Artifact
from stacks.constructs.image_build import ImageBuild
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class ImageStack(FleetPart):
    """The fleet reads the image's id from a parameter: an exported value could not change while it is in use."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "image", "the nodes' machine image")
        wanted = (*DEPENDENCIES, *FETCHING) if settings.bake_model else DEPENDENCIES
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
