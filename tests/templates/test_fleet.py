"""The fleet stack: scaling group, instances, network, load balancer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import CIDR, IN_A_VPC, SHIPPED, Synthesized, synthesize
from node_agent.contract.names import DRAINED_HOOK, READY_HOOK, node_log_group_name
from node_agent.core.node.lifecycle import RETIRE_BEFORE_S
from node_agent.settings import from_environ
from stacks.base_image import GPU_AMI_PARAMETER
from stacks.endpoints import GATEWAY_SERVICES, INTERFACE_SERVICES
from stacks.rollout import DRAIN_S
from tests.templates.test_permissions import granted


def group_of(templates: Synthesized) -> dict[str, Any]:
    (group,) = templates.resources("AWS::AutoScaling::AutoScalingGroup").values()
    return group


def sizes(templates: Synthesized) -> dict[str, str]:
    """The outputs that `synkti scale` and `synkti bootstrap` read."""
    outputs = templates.templates["synkti-fleet"]["Outputs"]
    return {name: outputs[name]["Value"] for name in ("MinNodes", "MaxNodes", "Nodes") if name in outputs}


def test_the_group_uses_all_zones_and_instance_types_with_capacity_rebalancing(production: Synthesized) -> None:
    group = production.only("AWS::AutoScaling::AutoScalingGroup")
    assert group["CapacityRebalance"] is True
    assert (group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) == ("0", "3", "6")
    assert sizes(production) == {"MinNodes": "0", "MaxNodes": "6", "Nodes": "3"}
    assert len(group["VPCZoneIdentifier"]) == 3
    policy = group["MixedInstancesPolicy"]
    assert policy["InstancesDistribution"] == {
        "OnDemandBaseCapacity": 0,
        "OnDemandPercentageAboveBaseCapacity": 0,
        "SpotAllocationStrategy": "price-capacity-optimized",
    }
    types = [override["InstanceType"] for override in policy["LaunchTemplate"]["Overrides"]]
    assert types == list(SHIPPED.instance_types)
    tags = {tag["Key"]: (tag["Value"], tag["PropagateAtLaunch"]) for tag in group["Tags"]}
    assert tags["SynktiCluster"] == ("synkti", True)
    assert tags["SynktiRole"] == ("worker", True)
    version = production.templates["synkti-fleet"]["Outputs"]["FleetVersion"]["Value"]
    assert tags["SynktiVersion"] == (version, True)


def hooks_of(templates: Synthesized) -> dict[str, tuple[str, str, int]]:
    hooks = templates.only("AWS::AutoScaling::AutoScalingGroup")["LifecycleHookSpecificationList"]
    return {
        hook["LifecycleHookName"]: (hook["LifecycleTransition"], hook["DefaultResult"], hook["HeartbeatTimeout"])
        for hook in hooks
    }


def test_lifecycle_hooks_wait_for_a_node_to_become_ready_and_to_drain(production: Synthesized) -> None:
    hooks = hooks_of(production)
    assert hooks[READY_HOOK][:2] == ("autoscaling:EC2_INSTANCE_LAUNCHING", "ABANDON")
    assert hooks[READY_HOOK][2] > SHIPPED.ready_within_s, "the node has to upload its log first"
    assert hooks[DRAINED_HOOK] == ("autoscaling:EC2_INSTANCE_TERMINATING", "CONTINUE", DRAIN_S)
    term = from_environ({"SYNKTI_MODEL_NAME": "m", "SYNKTI_MODEL_DIR": "d"}).term_grace_s
    assert term + RETIRE_BEFORE_S < DRAIN_S


def test_failed_nodes_are_kept_if_keep_failed_nodes_is_set(tmp_path: Path) -> None:
    kept = synthesize(tmp_path, replace(SHIPPED, keep_failed_nodes=True))
    assert hooks_of(kept)[READY_HOOK][1] == "CONTINUE"
    assert "SYNKTI_KEEP_FAILED_NODES=true" in user_data(kept)


def test_an_update_launches_new_nodes_before_it_terminates_old_ones(production: Synthesized) -> None:
    policy = group_of(production)["UpdatePolicy"]["AutoScalingInstanceRefresh"]
    preferences = {key: value for key, value in policy["Preferences"].items() if key != "AlarmSpecification"}
    assert preferences == {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 110, "SkipMatching": True}
    assert policy["Strategy"] == "Rolling"


def test_a_scaled_fleet_tracks_requests_in_flight_and_keeps_its_size_at_a_deployment(everything: Synthesized) -> None:
    group = everything.only("AWS::AutoScaling::AutoScalingGroup")
    assert (group["MinSize"], group["MaxSize"]) == ("2", "10")
    assert sizes(everything) == {"MinNodes": "2", "MaxNodes": "10"}
    assert "DesiredCapacity" not in group
    tracking = everything.only("AWS::AutoScaling::ScalingPolicy")["TargetTrackingConfiguration"]
    assert tracking["TargetValue"] == 8
    assert tracking["CustomizedMetricSpecification"] == {
        "Namespace": "Synkti",
        "MetricName": "InFlightRequests",
        "Dimensions": [{"Name": "AutoScalingGroupName", "Value": "synkti-fleet"}],
        "Statistic": "Average",
    }


def test_a_deployment_with_a_name_compares_the_size(
    production: Synthesized, everything: Synthesized, tmp_path: Path
) -> None:
    """CloudFormation leaves a group alone whose template is the same, so that a stopped fleet stayed stopped."""
    size = production.only("Custom::SynktiSize")
    assert {key: size[key] for key in ("Minimum", "Maximum", "Nodes", "Deployment")} == {
        "Minimum": "0",
        "Maximum": "6",
        "Nodes": "3",
        "Deployment": "",
    }
    assert everything.only("Custom::SynktiSize")["Nodes"] == "", "where the fleet scales, its bounds are set"
    named = synthesize(tmp_path, replace(SHIPPED, deployment="12345-1"))
    assert named.only("Custom::SynktiSize")["Deployment"] == "12345-1"
    (resource,) = named.resources("Custom::SynktiSize").values()
    groups = set(named.resources("AWS::AutoScaling::AutoScalingGroup"))
    assert groups <= set(resource["DependsOn"]), "after the group"


def test_without_a_scale_target_there_is_no_scaling_policy(production: Synthesized) -> None:
    assert production.resources("AWS::AutoScaling::ScalingPolicy") == {}


def launched(templates: Synthesized) -> dict[str, Any]:
    data: dict[str, Any] = templates.only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    return data


def user_data(templates: Synthesized) -> str:
    """Return the user data, with `<reference>` for each of CloudFormation's references."""
    pieces = launched(templates)["UserData"]["Fn::Base64"]["Fn::Join"][1]
    return "".join(piece if isinstance(piece, str) else "<reference>" for piece in pieces)


def test_instances_are_encrypted_need_imdsv2_and_end_when_they_power_off(production: Synthesized) -> None:
    data = launched(production)
    options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"}
    assert data["MetadataOptions"] | options == data["MetadataOptions"]
    (root,) = data["BlockDeviceMappings"]
    assert root["Ebs"] == {
        "Encrypted": True,
        "VolumeType": "gp3",
        "VolumeSize": 100,
        "Throughput": 250,
        "DeleteOnTermination": True,
    }
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    fleet = production.templates["synkti-fleet"]
    assert GPU_AMI_PARAMETER in [parameter.get("Default") for parameter in fleet["Parameters"].values()]


def test_the_launch_template_names_no_instance_type_beside_those_of_the_group(production: Synthesized) -> None:
    """Otherwise it names the first one, also where the region does not offer it, or it does not hold the model."""
    assert "InstanceType" not in launched(production)
    policy = group_of(production)["Properties"]["MixedInstancesPolicy"]
    types = [override["InstanceType"] for override in policy["LaunchTemplate"]["Overrides"]]
    assert types == list(SHIPPED.instance_types)


def test_a_configured_image_id_is_launched(tmp_path: Path) -> None:
    own = synthesize(tmp_path, replace(SHIPPED, image_id="ami-0123456789abcdef0"))
    assert launched(own)["ImageId"] == "ami-0123456789abcdef0"


def version(templates: Synthesized) -> str:
    return str(templates.templates["synkti-fleet"]["Outputs"]["FleetVersion"]["Value"])


def test_a_pinned_image_is_launched_and_another_one_is_another_version(production: Synthesized, tmp_path: Path) -> None:
    """Without a pin CloudFormation reads AWS's newest at each deployment: other nodes under the same version."""
    pinned = synthesize(tmp_path / "a", replace(SHIPPED, base_image_id="ami-0123456789abcdef0"))
    assert launched(pinned)["ImageId"] == "ami-0123456789abcdef0"
    assert GPU_AMI_PARAMETER not in (pinned.folder / "synkti-fleet.template.json").read_text()
    other = synthesize(tmp_path / "b", replace(SHIPPED, base_image_id="ami-0123456789abcdef1"))
    assert len({version(production), version(pinned), version(other)}) == 3


def test_security_groups_admit_only_clients_and_peers(production: Synthesized) -> None:
    group = production.only("AWS::EC2::SecurityGroup")
    assert [(rule["CidrIp"], rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupIngress"]] == [
        (CIDR, 8000, 8000)
    ]
    rules = [rule["Properties"] for rule in production.resources("AWS::EC2::SecurityGroupIngress").values()]
    assert sorted((rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules) == [
        ("tcp", 8001, 8001),
        ("udp", 8001, 8001),
    ]
    assert all(rule["SourceSecurityGroupId"] == rule["GroupId"] for rule in rules)


def test_metrics_cidrs_admit_collectors_and_let_the_nodes_listen_for_them(
    production: Synthesized, tmp_path: Path
) -> None:
    assert "SYNKTI_ADMIN_HOST=127.0.0.1\n" in user_data(production), "loopback, where no rule would help"
    assert "SYNKTI_PEER_TLS=on\n" in user_data(production), "prompts are encrypted between nodes"
    found = synthesize(tmp_path, replace(SHIPPED, metrics_cidrs=("10.71.0.0/16",)))
    group = found.only("AWS::EC2::SecurityGroup")
    assert ("10.71.0.0/16", 8003) in [(rule["CidrIp"], rule["FromPort"]) for rule in group["SecurityGroupIngress"]]
    assert "SYNKTI_ADMIN_HOST=0.0.0.0\n" in user_data(found)


def test_without_client_cidrs_no_client_is_admitted(tmp_path: Path) -> None:
    closed = synthesize(tmp_path, replace(SHIPPED, client_cidrs=()))
    assert "SecurityGroupIngress" not in closed.only("AWS::EC2::SecurityGroup")


def test_a_new_vpc_has_gateway_endpoints_for_s3_and_dynamodb_and_no_nat_gateway(production: Synthesized) -> None:
    assert production.resources("AWS::EC2::NatGateway") == {}
    assert len(production.resources("AWS::EC2::Subnet")) == 3
    endpoints = production.resources("AWS::EC2::VPCEndpoint").values()
    assert {endpoint["Properties"]["VpcEndpointType"] for endpoint in endpoints} == {"Gateway"}
    assert len(endpoints) == 2


@pytest.mark.parametrize(
    ("changes", "endpoints", "public"),
    [
        ({"vpc": "default"}, 2, True),
        ({"vpc": "default", "gateway_endpoints": False}, 0, True),
        ({"vpc": "existing", "public_addresses": False}, 2, False),
    ],
)
def test_an_existing_vpc_is_used(changes: dict[str, Any], endpoints: int, public: bool, tmp_path: Path) -> None:
    found = synthesize(tmp_path, replace(SHIPPED, **{**IN_A_VPC, **changes}))
    assert found.resources("AWS::EC2::VPC") == {}
    assert len(found.resources("AWS::EC2::VPCEndpoint")) == endpoints
    for endpoint in found.resources("AWS::EC2::VPCEndpoint").values():
        assert endpoint["Properties"]["RouteTableIds"] == list(IN_A_VPC["route_table_ids"])
        assert endpoint["Properties"]["VpcId"] == IN_A_VPC["vpc_id"]
    assert found.only("AWS::EC2::SecurityGroup")["VpcId"] == IN_A_VPC["vpc_id"]
    assert found.only("AWS::AutoScaling::AutoScalingGroup")["VPCZoneIdentifier"] == list(IN_A_VPC["subnet_ids"])
    assert launched(found)["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is public


def test_private_subnets_without_a_way_out_get_endpoints_for_all_that_a_node_may_call(tmp_path: Path) -> None:
    isolated = replace(SHIPPED, **IN_A_VPC, public_addresses=False, interface_endpoints=True)
    found = synthesize(tmp_path, isolated)
    endpoints = [each["Properties"] for each in found.resources("AWS::EC2::VPCEndpoint").values()]
    interfaces = [each for each in endpoints if each["VpcEndpointType"] == "Interface"]
    assert {each["ServiceName"].rpartition(".")[2] for each in interfaces} == INTERFACE_SERVICES
    assert all(each["PrivateDnsEnabled"] and each["SubnetIds"] == list(IN_A_VPC["subnet_ids"]) for each in interfaces)
    called = {grant.action.partition(":")[0] for grant in granted(found) if grant.role == "node"}
    names = {"cloudwatch": "monitoring"}
    assert {names.get(service, service) for service in called} == INTERFACE_SERVICES | GATEWAY_SERVICES
    (group,) = {each["SecurityGroupIds"][0]["Fn::GetAtt"][0] for each in interfaces}
    rules = [rule["Properties"] for rule in found.resources("AWS::EC2::SecurityGroupIngress").values()]
    assert [rule["FromPort"] for rule in rules if rule["GroupId"]["Fn::GetAtt"][0] == group] == [443]


def test_the_load_balancer_terminates_no_connection_of_a_draining_node(everything: Synthesized) -> None:
    targets = everything.only("AWS::ElasticLoadBalancingV2::TargetGroup")
    attributes = {each["Key"]: each["Value"] for each in targets["TargetGroupAttributes"]}
    assert attributes == {
        "deregistration_delay.timeout_seconds": "120",
        "deregistration_delay.connection_termination.enabled": "false",
        "target_health_state.unhealthy.connection_termination.enabled": "false",
        "target_health_state.unhealthy.draining_interval_seconds": "120",
    }
    assert (targets["HealthCheckPath"], targets["HealthCheckProtocol"], targets["Port"]) == ("/readyz", "HTTP", 8000)
    assert everything.only("AWS::AutoScaling::AutoScalingGroup")["TargetGroupARNs"]


def test_a_certificate_makes_a_tls_listener(everything: Synthesized) -> None:
    listener = everything.only("AWS::ElasticLoadBalancingV2::Listener")
    assert (listener["Port"], listener["Protocol"]) == (443, "TLS")
    assert listener["Certificates"] == [{"CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/0a1b"}]
    assert "TLS13" in listener["SslPolicy"]
    balancer = everything.only("AWS::ElasticLoadBalancingV2::LoadBalancer")
    assert (balancer["Scheme"], balancer["Type"]) == ("internet-facing", "network")
    doors = next(
        group["Properties"]
        for name, group in everything.resources("AWS::EC2::SecurityGroup").items()
        if name.startswith("AddressDoors")
    )
    assert [(rule["CidrIp"], rule["FromPort"]) for rule in doors["SecurityGroupIngress"]] == [(CIDR, 443)]
    assert everything.templates["synkti-fleet"]["Outputs"]["Endpoint"]["Value"] == "https://llm.example.com"
    assert everything.resources("AWS::Route53::RecordSet") == {}, "without its zone the record is made elsewhere"


def test_in_its_hosted_zone_a_domain_gets_a_record_and_a_certificate(tmp_path: Path) -> None:
    named = replace(SHIPPED, load_balancer="public", domain="llm.example.com", hosted_zone_id="Z0123456789ABCDEFGHIJ")
    found = synthesize(tmp_path, named)
    (balancer,) = found.resources("AWS::ElasticLoadBalancingV2::LoadBalancer")
    record = found.only("AWS::Route53::RecordSet")
    assert (record["Name"], record["Type"], record["HostedZoneId"]) == (
        "llm.example.com.",
        "A",
        "Z0123456789ABCDEFGHIJ",
    )
    alias = json.dumps(record["AliasTarget"])
    assert balancer in alias
    assert "CanonicalHostedZoneID" in alias
    certificate = found.only("AWS::CertificateManager::Certificate")
    assert (certificate["DomainName"], certificate["ValidationMethod"]) == ("llm.example.com", "DNS")
    assert certificate["DomainValidationOptions"] == [
        {"DomainName": "llm.example.com", "HostedZoneId": "Z0123456789ABCDEFGHIJ"}
    ]
    listener = found.only("AWS::ElasticLoadBalancingV2::Listener")
    (name,) = found.resources("AWS::CertificateManager::Certificate")
    assert (listener["Port"], listener["Protocol"], listener["Certificates"]) == (
        443,
        "TLS",
        [{"CertificateArn": {"Ref": name}}],
    )
    assert found.templates["synkti-fleet"]["Outputs"]["Endpoint"]["Value"] == "https://llm.example.com"
    assert found.lookups == []


def test_an_internal_load_balancer_without_a_certificate_has_a_long_tcp_idle_timeout(tmp_path: Path) -> None:
    internal = synthesize(tmp_path, replace(SHIPPED, load_balancer="internal"))
    listener = internal.only("AWS::ElasticLoadBalancingV2::Listener")
    assert (listener["Port"], listener["Protocol"]) == (80, "TCP")
    assert listener["ListenerAttributes"] == [{"Key": "tcp.idle_timeout.seconds", "Value": "900"}]
    assert internal.only("AWS::ElasticLoadBalancingV2::LoadBalancer")["Scheme"] == "internal"


def test_there_is_no_load_balancer_by_default(production: Synthesized) -> None:
    assert production.resources("AWS::ElasticLoadBalancingV2::LoadBalancer") == {}
    assert "Endpoint" not in production.templates["synkti-fleet"]["Outputs"]


def test_node_logs_have_a_retention_of_30_days(production: Synthesized) -> None:
    group = production.templates["synkti-fleet"]["Resources"]
    logs = [each["Properties"] for each in group.values() if each["Type"] == "AWS::Logs::LogGroup"]
    days = {each["LogGroupName"]: each["RetentionInDays"] for each in logs}
    assert days[node_log_group_name("synkti")] == 30


def test_an_update_whose_nodes_give_up_is_rolled_back(production: Synthesized) -> None:
    (group,) = production.resources("AWS::AutoScaling::AutoScalingGroup").values()
    resources = production.templates["synkti-fleet"]["Resources"]
    (name,) = [name for name, each in resources.items() if each["Type"] == "AWS::CloudWatch::Alarm"]
    assert json.dumps(group["UpdatePolicy"]).count(json.dumps({"Ref": name})) == 1
    alarm = resources[name]["Properties"]
    assert (alarm["MetricName"], alarm["EvaluationPeriods"], alarm["Period"]) == ("BreakerOpen", 1, 300)
    assert alarm["TreatMissingData"] == "notBreaching", "so that it does not fail the update with the remedy, too"


def test_the_root_volume_is_filled_at_a_rate_only_where_that_is_paid_for(
    production: Synthesized, everything: Synthesized
) -> None:
    def root(templates: Synthesized) -> dict[str, Any]:
        (device,) = templates.only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]["BlockDeviceMappings"]
        volume: dict[str, Any] = device["Ebs"]
        return volume

    assert "VolumeInitializationRate" not in root(production)
    assert root(everything)["VolumeInitializationRate"] == 200
