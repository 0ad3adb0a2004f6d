"""The stand-in for IMDS: tokens, notices, and what cloud-init and the SDKs read."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from local.imds import TOKEN_PATH, InstanceMetadata, MetadataService
from node_agent.contract.aws_events import parse_instance_action, parse_rebalance

METADATA = InstanceMetadata("i-1", "us-east-1a", "us-east-1", "g5.xlarge", "127.0.0.9")
TTL = {"x-aws-ec2-metadata-token-ttl-seconds": "60"}


def get(service: MetadataService, path: str, token: str, now: float = 0.0, **changes: float) -> tuple[int, str]:
    headers = {"x-aws-ec2-metadata-token": token}
    metadata = InstanceMetadata(**{**asdict(METADATA), **changes})
    return service.answer(metadata, "GET", f"/latest/meta-data/{path}", headers, now, "")


def put(service: MetadataService, headers: dict[str, str], token: str) -> tuple[int, str]:
    return service.answer(METADATA, "PUT", TOKEN_PATH, headers, 0.0, token)


def test_imds_answers_only_with_a_token_that_has_not_expired() -> None:
    service = MetadataService()
    assert get(service, "instance-id", "t1")[0] == 401
    assert put(service, TTL, "t1") == (200, "t1")
    assert get(service, "instance-id", "t1", now=59) == (200, "i-1")
    assert get(service, "instance-id", "t1", now=60)[0] == 401
    assert get(service, "autoscaling/target-lifecycle-state", "t1", now=1) == (200, "InService")
    assert get(service, "nothing", "t1", now=1)[0] == 404
    assert service.answer(METADATA, "GET", TOKEN_PATH, TTL, 0.0, "t2")[0] == 405
    for wrong in ("", "0", "21601", "x"):
        assert put(service, {"x-aws-ec2-metadata-token-ttl-seconds": wrong}, "t")[0] == 400


def test_a_notice_and_a_recommendation_appear_when_they_are_given() -> None:
    service = MetadataService()
    put(service, TTL, "t")
    assert get(service, "spot/instance-action", "t")[0] == 404
    assert get(service, "events/recommendations/rebalance", "t")[0] == 404
    assert parse_instance_action(get(service, "spot/instance-action", "t", deadline=1000.0)[1]).deadline == 1000.0
    assert parse_rebalance(get(service, "events/recommendations/rebalance", "t", rebalance_at=900.0)[1]) == 900.0


def test_imds_has_what_cloud_init_and_the_sdks_read() -> None:
    service = MetadataService()
    put(service, TTL, "t")
    metadata = replace(METADATA, user_data="#!/bin/bash\n", role="node", access_key="AKIA1", secret_key="s")

    def read(path: str) -> tuple[int, str]:
        return service.answer(metadata, "GET", path, {"x-aws-ec2-metadata-token": "t"}, 1.0, "")

    assert read("/2021-03-23/user-data") == read("/latest/user-data") == (200, "#!/bin/bash\n")
    top = read("/2021-03-23/meta-data/")[1].splitlines()
    assert {"instance-id", "placement/", "iam/", "local-ipv4"} <= set(top)
    assert "spot/" not in top  # there is no notice
    for path in ("placement", "placement/"):
        assert read(f"/latest/meta-data/{path}") == (200, "availability-zone\nregion")
    assert read("/latest/meta-data/iam/security-credentials/") == (200, "node")
    credentials = json.loads(read("/latest/meta-data/iam/security-credentials/node")[1])
    assert (credentials["AccessKeyId"], credentials["Expiration"]) == ("AKIA1", "1970-01-01T06:00:01Z")
    assert json.loads(read("/latest/dynamic/instance-identity/document")[1])["region"] == "us-east-1"
    for absent in ("/latest/meta-data/place", "/latest/", "/user-data", "/latest/meta-data/nothing/"):
        assert read(absent)[0] == 404
    assert get(service, "iam/security-credentials/", "t")[0] == 404  # an instance without a role
    assert service.answer(METADATA, "GET", "/latest/user-data", {"x-aws-ec2-metadata-token": "t"}, 1.0, "")[0] == 404
