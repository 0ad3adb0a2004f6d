"""The user data of an instance's first boot, and the archive that it downloads."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import SHIPPED, Synthesized, synthesize
from stacks.constructs.artifact import AGENT, DEPENDENCIES, MODEL_DOWNLOADER, ROOT, Archive, pack
from stacks.constructs.boot import MAX_USER_DATA_BYTES
from tests.templates.test_fleet import user_data


def version_of(templates: Synthesized) -> str:
    version: str = templates.templates["synkti-fleet"]["Outputs"]["FleetVersion"]["Value"]
    return version


def names_in(archive: Archive) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as held:
        return set(held.getnames())


def test_the_published_archive_has_the_digest_in_the_user_data(production: Synthesized) -> None:
    variables = dict(line.split("=", 1) for line in user_data(production).splitlines() if line.startswith("SYNKTI_"))
    (archive,) = production.folder.glob("agent-*.tar")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == variables["SYNKTI_AGENT_SHA256"]
    assert archive.read_bytes() in [copy.read_bytes() for copy in production.folder.glob("asset.*.tar")]


def test_the_archive_has_the_files_that_a_node_needs_and_no_others(production: Synthesized) -> None:
    held = names_in(pack(AGENT))
    assert "node_agent/__main__.py" in held
    assert "stacks/boot/boot.sh" in held
    assert "requirements/engine.txt" in held
    beginnings = ("node_agent/", "stacks/boot/", "requirements/")
    assert [name for name in held if not name.startswith(beginnings) or "__pycache__" in name] == []


def test_an_archive_does_not_depend_on_file_times_modes_and_order(tmp_path: Path) -> None:
    for name in ("one.py", "two.sh"):
        (tmp_path / name).write_text(name)
    first = pack(["*.py", "*.sh"], tmp_path)
    (tmp_path / "one.py").touch()
    (tmp_path / "two.sh").chmod(0o600)
    assert pack(["*.sh", "*.py"], tmp_path) == first
    (tmp_path / "one.py").write_text("changed")
    assert pack(["*.py", "*.sh"], tmp_path).sha256 != first.sha256


def test_a_pattern_without_a_match_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"\*\.md"):
        pack(["*.md"], tmp_path)


def test_an_image_build_has_what_its_module_imports() -> None:
    held = names_in(pack((*DEPENDENCIES, *MODEL_DOWNLOADER)))
    sources = [ROOT / name for name in held if name.endswith(".py")]
    imported = {
        line.split()[1]
        for source in sources
        for line in source.read_text().splitlines()
        if line.startswith("from node_agent")
    }
    assert {name.replace(".", "/") + ".py" for name in imported} <= held


IN_A_VPC = {"vpc": "existing", "vpc_id": "vpc-0a", "subnet_ids": ("subnet-0a",), "route_table_ids": ("rtb-0a",)}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"model_sha256": "b" * 64},
        {"engine_args": ("--max-model-len", "8192")},
        {"model_load": "stream"},
        {"kv_gib": 20},
        {"instance_types": SHIPPED.instance_types[:2]},  # the smallest one sets the context length
        {"image_id": "ami-0123456789abcdef0"},
        {"base_image_id": "ami-0123456789abcdef0"},
        {"allowed_origins": ("https://chat.example.com",)},
        {"metrics_cidrs": ("10.71.0.0/16",)},
        {"allowed_routes": ("/tokenize",)},
        {"allowed_fields": ("priority",)},
        {"allowed_media_domains": ("images.example.com",)},
        {"max_data_url_kib": 512},
        {"cache_salt": "per-key"},
        {"peer_tls": False},
        {"api_keys": False},
        {"audit_log": False},
        {"ui": False},
        {"load_balancer": "internal"},
        {"ready_within_s": 600},
        {"keep_failed_nodes": True},
        {"root_gib": 200},
        {"root_mib_per_s": 500},
        {"root_initialization_mib_per_s": 100},
        {"compile_caches": True},
        {**IN_A_VPC, "public_addresses": False},
    ],
)
def test_a_setting_that_changes_the_nodes_changes_the_version(
    changes: dict[str, object], production: Synthesized, tmp_path: Path
) -> None:
    """A changed launch template replaces the instances: with the old version the workflow would count the old ones."""
    changed = synthesize(tmp_path, replace(SHIPPED, **changes))  # type: ignore[arg-type] # each is a field
    assert template_of(changed) != template_of(production)
    assert version_of(changed) != version_of(production)


def test_a_setting_that_does_not_change_the_nodes_changes_neither_version_nor_template(
    production: Synthesized, tmp_path: Path
) -> None:
    """A new version alone would wait for nodes that are not replaced."""
    others = replace(SHIPPED, nodes=7, client_cidrs=("10.0.0.0/8",), zones=2, log_days=7, on_demand_base=1)
    kept = synthesize(tmp_path, others)
    assert version_of(kept) == version_of(production)
    assert template_of(kept) == template_of(production)


def template_of(templates: Synthesized) -> dict[str, Any]:
    """The launch template, without the references that depend on account and region."""
    data: dict[str, Any] = templates.only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    return data


def test_user_data_fits_with_room_for_references(production: Synthesized) -> None:
    assert len(user_data(production).encode()) < MAX_USER_DATA_BYTES * 0.5


def test_nodes_require_keys_by_default_and_say_so_where_they_do_not(production: Synthesized, tmp_path: Path) -> None:
    text = user_data(production)
    assert "SYNKTI_API_KEYS=secret:synkti/client-keys\n" in text
    assert "SYNKTI_AUDIT_LOG=/var/lib/synkti/audit.log\n" in text
    off = user_data(synthesize(tmp_path, replace(SHIPPED, api_keys=False, audit_log=False)))
    assert "SYNKTI_API_KEYS=off\n" in off
    assert "SYNKTI_AUDIT_LOG=off\n" in off


@pytest.mark.parametrize(("balancer", "seconds"), [("none", "0"), ("internal", "30")])
def test_a_node_lingers_only_behind_a_load_balancer(tmp_path: Path, balancer: str, seconds: str) -> None:
    text = user_data(synthesize(tmp_path, replace(SHIPPED, load_balancer=balancer)))
    assert f"\nSYNKTI_LINGER_S={seconds}\n" in text
