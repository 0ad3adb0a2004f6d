"""`synkti destroy`: what it deletes, in which order, and what it keeps."""

from __future__ import annotations

import boto3
import pytest

from cli import destroy
from cli.core.clusters import Stack
from cli.destroy import deletion_order
from cli.polling import Clock
from node_agent.contract.names import checkpoints_bucket_name
from tests.unit.cli.conftest import ACCOUNT, REGION, DeployedFleet, Run, make_fleet
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_cdk import BUCKET


def test_dependent_stacks_are_deleted_first() -> None:
    parts = ("state", "image", "events", "fleet", "github", "extra")
    stacks = [Stack(f"synkti-{part}", "CREATE_COMPLETE", "synkti", {}, 0.0) for part in parts]
    assert [each.name.removeprefix("synkti-") for each in deletion_order("synkti", stacks)] == [
        "extra",
        "github",
        "events",
        "fleet",
        "image",
        "state",
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = FakeClock().clock
    monkeypatch.setattr(destroy, "CLOCK", clock)
    return clock


def test_destroy_lists_what_stays_before_the_confirmation(fleet: DeployedFleet, run: Run) -> None:
    done = run("destroy")
    assert done.code == 9
    assert "delete: synkti-fleet, synkti-state" in done.err
    assert f"retain: {BUCKET} (S3::Bucket)" in done.err
    assert fleet.cloudformation.deleted == []


def test_destroy_keeps_only_the_models(fleet: DeployedFleet, run: Run, clock: Clock) -> None:
    s3 = boto3.client("s3")
    checkpoints = checkpoints_bucket_name("synkti", ACCOUNT, REGION)
    s3.create_bucket(Bucket=checkpoints)
    s3.put_object(Bucket=checkpoints, Key="end-of-life/i-1/x.log", Body=b"the end")
    fleet.cloudformation.stacks["synkti-state"].outputs = {"CheckpointsBucket": checkpoints}
    document = run("destroy", "--yes", "--json").document
    assert document["deleted"] == fleet.cloudformation.deleted == ["synkti-fleet", "synkti-state"]
    assert document["kept"] == [{"kind": "AWS::S3::Bucket", "name": BUCKET}]
    assert "Contents" not in s3.list_objects_v2(Bucket=checkpoints), (
        "CloudFormation deletes no bucket that holds something"
    )
    assert run("destroy", "--yes").code == 4


def test_a_stack_that_cannot_be_deleted_reports_the_reason(fleet: DeployedFleet, run: Run, clock: Clock) -> None:
    fleet.cloudformation.undeletable["synkti-state"] = "the bucket is not empty"
    done = run("destroy", "--yes")
    assert done.code == 1
    assert "Checkpoints: the bucket is not empty" in done.err
    fleet.cloudformation.undeletable.clear()
    assert run("destroy", "--yes").code == 0


def test_a_deletion_is_waited_for_a_bounded_time(
    fleet: DeployedFleet, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(StackName: str) -> None:
        fleet.cloudformation.stacks[StackName].status = "DELETE_IN_PROGRESS"

    monkeypatch.setattr(fleet.cloudformation, "delete_stack", never)
    done = run("destroy", "--yes")
    assert (done.code, "the end of the stack synkti-fleet did not happen within 3600 s" in done.err) == (8, True)


def test_ambiguous_clusters_are_not_destroyed(fleet: DeployedFleet, run: Run, clock: Clock) -> None:
    make_fleet(fleet.cloudformation, "other")
    assert run("destroy", "--yes").code == 5
    assert fleet.cloudformation.deleted == []
    assert run("destroy", "--yes", "--cluster", "other").code == 0
    assert fleet.cloudformation.deleted == ["other-fleet", "other-state"]
