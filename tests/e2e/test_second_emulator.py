"""A fleet's life on another emulator: moto in place of ministack. What only one of the two accepts is a finding.

moto has no Lambdas that run and its groups launch instances of their own, so that the stacks are not deployed: the test
makes the table, the bucket, the secret and the instances, and calls the Lambda's handler itself. docs/testing.md has
the differences.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import secrets
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest

import synkti_client
from local.aws import ACCOUNT, REGION, free_port
from local.certificate import StreamOutcome, build_certificate, passed
from local.chaos.client import send_request
from local.chaos.workload import expected, random_request
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, prepare_engine
from local.imds import InstanceMetadata
from local.process_cleanup import kill_all_in, start, tail
from node_agent.contract import names
from node_agent.contract.aws_events import INTERRUPTION_EVENT
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, node_key
from node_agent.contract.tags import NodeTags
from node_agent.contract.timestamps import format_instant
from tests.unit.lambdas.test_handlers import Context

CLUSTER = "synkti"
NODES, CLIENTS = 2, 6
TOKENS = (1_000, 2_000)
LEAD_S = 6.0
"""So short that some streams are handed off."""

WITHIN_S = 90.0

pytestmark = [pytest.mark.e2e, pytest.mark.long]


class MotoAws:
    """The process of moto, with what the state stack makes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.log, port = folder / "aws", folder / "aws.log", free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.e2e.moto_aws", str(port)]
        self._process = start(command, self._folder, {**os.environ, "PYTHONPATH": os.getcwd()}, self.log)

    def environ(self) -> dict[str, str]:
        """Return what directs any AWS tool to this AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str) -> Any:
        """Make a client of this AWS."""
        session = boto3.session.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
        return session.client(service, endpoint_url=self.endpoint)  # type: ignore[call-overload]

    def wait(self) -> None:
        """Wait until it answers."""
        give_up_at = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2):
                    return
            except OSError:
                assert self._process.poll() is None, tail(self.log)
                assert time.monotonic() < give_up_at, tail(self.log)
                time.sleep(0.1)

    def make_state(self) -> None:
        """Make the table, the checkpoints bucket and the cluster's key."""
        keys: Any = ((PARTITION_KEY, "HASH"), (SORT_KEY, "RANGE"))
        self.client("dynamodb").create_table(
            TableName=names.table_name(CLUSTER),
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
            BillingMode="PAY_PER_REQUEST",
        )
        self.client("s3").create_bucket(Bucket=names.checkpoints_bucket_name(CLUSTER, ACCOUNT, REGION))
        self.client("secretsmanager").create_secret(
            Name=names.cluster_key_secret_name(CLUSTER), SecretString=secrets.token_hex(32)
        )

    def launch(self) -> str:
        """Run an instance with the tags of the group; return its id."""
        tags: Any = [{"Key": key, "Value": value} for key, value in NodeTags(CLUSTER, None).encode().items()]
        answer = self.client("ec2").run_instances(
            ImageId="ami-12c6146b",
            MinCount=1,
            MaxCount=1,
            InstanceType="g5.xlarge",
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        return str(answer["Instances"][0]["InstanceId"])

    def tags(self, instance_id: str) -> dict[str, str]:
        """Return an instance's tags."""
        found = self.client("ec2").describe_instances(InstanceIds=[instance_id])
        return {tag["Key"]: tag["Value"] for tag in found["Reservations"][0]["Instances"][0].get("Tags", [])}

    def record(self, instance_id: str) -> dict[str, Any]:
        """Return a node's record; empty where there is none."""
        key = {name: {"S": value} for name, value in node_key(instance_id).items()}
        answer = self.client("dynamodb").get_item(TableName=names.table_name(CLUSTER), Key=key)
        found: dict[str, Any] = answer.get("Item", {})
        return found

    def stop(self) -> None:
        """End the process."""
        kill_all_in(self._folder)
        self._process.wait()


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoAws]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    moto = MotoAws(tmp_path)
    try:
        moto.wait()
        moto.make_state()
        yield moto
    finally:
        moto.stop()


@pytest.fixture
def machines(aws: MotoAws, tmp_path: Path) -> Iterator[list[EmulatedInstance]]:
    engine, network = prepare_engine(SIM, lambda text: None), free_network()
    environ = {**os.environ, **aws.environ(), **engine.environ}
    kind = InstanceTemplate(
        CLUSTER, MODEL, engine.model_dir, engine.command, environ, tmp_path / "nodes", tmp_path / "logs"
    )
    (tmp_path / "logs").mkdir()
    started: list[EmulatedInstance] = []
    try:
        for number in range(NODES):
            metadata = InstanceMetadata(
                instance_id=aws.launch(),
                zone=f"{REGION}{'ab'[number]}",
                region=REGION,
                instance_type="g5.xlarge",
                address=f"{network}.{number + 1}",
            )
            started.append(EmulatedInstance(kind, metadata))
        yield started
    finally:
        for machine in started:
            machine.close()


def logs(aws: MotoAws, machines: list[EmulatedInstance]) -> str:
    return "\n".join(f"--- {log.name}\n{tail(log)}" for log in (aws.log, *(machine.log for machine in machines)))


async def until(what: str, holds: Callable[[], bool], evidence: Callable[[], str]) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < give_up_at, f"{what} did not happen\n{evidence()}"
        await asyncio.sleep(0.2)


def call_lambda(aws: MotoAws, instance_id: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Handle the interruption warning as the deployed function would."""
    for name, value in aws.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SYNKTI_CLUSTER", CLUSTER)
    monkeypatch.setenv("SYNKTI_TABLE", names.table_name(CLUSTER))
    module = importlib.reload(importlib.import_module("lambdas.handlers.node_interrupted"))
    event = {
        "id": "e-1",
        "detail-type": INTERRUPTION_EVENT,
        "source": "aws.ec2",
        "time": format_instant(time.time()),
        "detail": {"instance-id": instance_id, "instance-action": "terminate"},
    }
    answer: dict[str, str] = module.handler(event, Context())
    return answer


@pytest.mark.timeout(300)
def test_a_node_is_taken_away_and_no_token_is_lost(
    aws: MotoAws, machines: list[EmulatedInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[StreamOutcome] = []
    lost = machines[1]

    def evidence() -> str:
        return logs(aws, machines)

    async def client(number: int) -> None:
        """Send requests through one transport until the node has ended."""
        random, transport = Random(number), synkti_client.async_transport([machine.url for machine in machines])
        try:
            while lost.running:
                request = random_request(random, TOKENS, choices=1)
                result = await send_request(request, MODEL, "http://synkti/v1", transport)
                right, got = expected(request), result.outputs[0]
                if not (request.returns_token_ids and request.stream):  # then the response has only the text
                    right, got = type(right)((), right.text), type(got)((), got.text)
                kind = "notice" if result.continuations else None
                pause = max((each.pause_ms for each in result.continuations), default=None)
                wrong = result.error or result.inconsistency
                outcomes.append(StreamOutcome(str(number), right, got, kind, pause, wrong))
        finally:
            await transport.aclose()

    async def story() -> None:
        await until("both nodes serve", lambda: all(machine.is_ready() for machine in machines), evidence)
        await until(
            "the tags of both nodes",
            lambda: all(aws.tags(each.instance_id).get("SynktiState") == "ready" for each in machines),
            evidence,
        )
        assert aws.record(lost.instance_id)["state"] == {"S": "ready"}
        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        await asyncio.sleep(1.0)
        lost.give_notice(LEAD_S)
        decided = await asyncio.to_thread(call_lambda, aws, lost.instance_id, monkeypatch)
        assert decided["action"] in ("advance", "note"), decided
        await until("the end of the drained node", lambda: not lost.running, evidence)
        await asyncio.gather(*clients)

    asyncio.run(story())
    wrong = [each for each in outcomes if each.error or not each.verified]
    assert wrong == [], evidence()
    certificate = build_certificate(SIM, None, Counter(notice=1), outcomes, 0.0)
    print(json.dumps({key: certificate[key] for key in ("streams", "resumed", "tokens", "client_errors")}))
    assert passed(certificate), certificate
    assert certificate["resumed"] > 0, "some streams were handed off"
    record = aws.record(lost.instance_id)
    steps = {step["M"]["step"]["S"] for step in record["timeline"]["M"].values()}
    assert record["state"]["S"] in (NodeState.DRAINING.value, NodeState.GONE.value)
    assert {"ready", "notice-seen", "interruption-notice"} <= steps, steps
    assert "SynktiState" not in aws.tags(lost.instance_id), "a node that ends gracefully deletes its tags"
    assert aws.tags(machines[0].instance_id)["SynktiState"] == "ready"
