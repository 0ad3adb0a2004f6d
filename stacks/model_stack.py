"""The model stack: the build that copies a model from a hub; with `model_source`, a deployment runs it."""

from __future__ import annotations

from aws_cdk import CfnOutput
from constructs import Construct

from stacks.base_stack import BaseStack
from stacks.constructs.artifact import HUB_JOB, Artifact
from stacks.constructs.lambda_package import lambda_code
from stacks.constructs.model_job import ModelJob
from stacks.constructs.model_request import ModelRequest
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack


class ModelStack(BaseStack):
    """Created before the fleet, whose nodes need the model. Deleting it leaves the model where it is."""

    def __init__(self, scope: Construct, settings: FleetSettings, state: StateStack) -> None:
        super().__init__(scope, settings, "model", "models from a hub")
        project = ModelJob(self, "Job", settings, state, Artifact(self, "HubJob", HUB_JOB)).project
        if settings.model_source:
            ModelRequest(self, "Request", settings, project=project, code=lambda_code(self, layers=not settings.local))
        CfnOutput(self, "ModelProject", value=project.ref)
