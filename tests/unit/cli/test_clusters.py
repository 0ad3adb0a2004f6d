"""The choice of a cluster, and the reason of a failure in CloudFormation's events."""

from __future__ import annotations

from typing import Any

import pytest

from cli.core.clusters import Stack, choose, choose_for_deployment, clusters_of, first_failure
from cli.errors import Ambiguous, NotFound


def stack(name: str, cluster: str | None, status: str = "CREATE_COMPLETE", changed: float = 0.0) -> Stack:
    return Stack(name, status, cluster, {}, changed)


def test_clusters_are_found_by_their_stacks() -> None:
    found = clusters_of(
        [
            stack("prod-fleet", "prod", changed=2),
            stack("prod-state", "prod", changed=1),
            stack("beta-state", "beta"),
            stack("gone-state", "gone", "DELETE_COMPLETE"),
            stack("CDKToolkit", None),
            stack("somebody-elses", "prod"),
        ]
    )
    assert {cluster: [each.name for each in its] for cluster, its in found.items()} == {
        "beta": ["beta-state"],
        "prod": ["prod-state", "prod-fleet"],
    }


def test_the_named_cluster_or_the_only_one_is_chosen() -> None:
    assert choose("a", ["a", "b"], "here") == "a"
    assert choose(None, ["b"], "here") == "b"


def test_no_cluster_and_several_clusters_are_different_errors() -> None:
    with pytest.raises(NotFound, match="no cluster in here"):
        choose(None, [], "here")
    with pytest.raises(NotFound, match="no cluster 'c' in here; there is 'a', 'b'"):
        choose("c", ["b", "a"], "here")
    with pytest.raises(Ambiguous, match="several clusters in here: 'a', 'b'"):
        choose(None, ["b", "a"], "here")


def test_a_deployment_makes_a_new_cluster_only_if_no_other_exists() -> None:
    assert choose_for_deployment(None, "synkti", [], "here") == "synkti"
    assert choose_for_deployment(None, "synkti", ["synkti"], "here") == "synkti"
    assert choose_for_deployment("new", "synkti", ["a", "b"], "here") == "new"
    for found in (["prod"], ["prod", "synkti"]):
        with pytest.raises(Ambiguous, match="no cluster is named"):
            choose_for_deployment(None, "synkti", found, "here")


def event(name: str, status: str, reason: str = "", kind: str = "AWS::S3::Bucket") -> dict[str, Any]:
    return {"LogicalResourceId": name, "ResourceType": kind, "ResourceStatus": status, "ResourceStatusReason": reason}


OWN = "AWS::CloudFormation::Stack"


def test_the_first_failure_of_the_last_operation_is_the_reason() -> None:
    events = [
        event("s", "ROLLBACK_COMPLETE", kind=OWN),
        event("Table", "CREATE_FAILED", "Resource creation cancelled"),
        event("Bucket", "CREATE_FAILED", "it already exists"),
        event("s", "CREATE_IN_PROGRESS", kind=OWN),
        event("Older", "DELETE_FAILED", "long ago"),
    ]
    assert first_failure(events) == "Bucket: it already exists"
    assert first_failure(events[3:]) == ""
