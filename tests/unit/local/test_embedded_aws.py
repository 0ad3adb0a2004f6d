"""The embedded AWS keeps of an instance what the run says of it."""

from __future__ import annotations

from pathlib import Path

from local.aws import EmbeddedAws


def test_an_instance_has_the_zone_and_the_market_that_were_requested(tmp_path: Path) -> None:
    aws = EmbeddedAws(tmp_path, tmp_path)
    try:
        aws.wait()
        ec2 = aws.client("ec2")
        options = {"ImageId": "ami-00000000000000000", "MinCount": 1, "MaxCount": 1, "InstanceType": "g5.xlarge"}
        spot = ec2.run_instances(
            **options, Placement={"AvailabilityZone": "us-east-1c"}, InstanceMarketOptions={"MarketType": "spot"}
        )
        plain = ec2.run_instances(**options)
        ids = [answer["Instances"][0]["InstanceId"] for answer in (spot, plain)]
        reservations = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    finally:
        aws.stop()
    found = {each["InstanceId"]: each for reservation in reservations for each in reservation["Instances"]}
    first, second = (found[instance_id] for instance_id in ids)
    assert (first["Placement"]["AvailabilityZone"], first["InstanceLifecycle"]) == ("us-east-1c", "spot")
    assert (second["Placement"]["AvailabilityZone"], second.get("InstanceLifecycle")) == ("us-east-1a", None)
