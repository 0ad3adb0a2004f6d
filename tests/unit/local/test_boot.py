"""What a boot run decides before anything boots: whether this machine can, what is downloaded, what an image has."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest

from local.boot.__main__ import possible_parts
from local.boot.aws_gateway import service_hosts
from local.boot.cgroups import unified_path
from local.boot.image import IMAGE_PYTHON, Variant, image_files, image_links, image_of
from local.boot.network import interface
from local.boot.packages import STAND_IN, locked
from local.boot.part_engine_unit import METADATA_REACHED
from local.boot.parts import PARTS, VLLM_PART
from local.boot.paths import ENGINE_ERROR, ENGINE_FOLDER, UV_DOWNLOADS, VLLM_FOLDER
from local.boot.requirements import Machine, cgroup_version, missing, missing_for_vllm
from local.boot.scene import SETTINGS
from local.deploy import ROOT
from local.errors import UserActionRequired
from stacks.settings import EMBEDDED, FleetSettings, from_values

LOCK = """\
anyio==4.0 \\
    --hash=sha256:aa
    # via httpx
click==8.5.1 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via uvicorn
h11==0.16.0 \\
    --hash=sha256:dd
"""


def test_a_machine_with_everything_can_boot_instances() -> None:
    assert missing(Machine()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system": "Darwin"}, "Linux machine"),
        ({"architecture": "aarch64"}, "x86_64"),
        ({"is_root": False, "can_unshare": False}, "sudo"),
        ({"programs": Machine().programs - {"systemd-nspawn"}}, "apt-get install systemd-container"),
        (
            {"programs": Machine().programs - {"debootstrap"}, "has_keyring": False},
            "debian-archive-keyring debootstrap",
        ),
        ({"has_overlay": False}, "modprobe overlay"),
        ({"cgroups": ""}, "cgroups are not mounted"),
        ({"can_unshare": False}, "privileged"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(changes: dict[str, object], words: str) -> None:
    (fault,) = missing(replace(Machine(), **changes))  # type: ignore[arg-type]
    assert words in fault


def test_a_real_vllm_needs_the_images_python() -> None:
    """Its environment is this machine's: the packages of another Python would not be found there."""
    assert missing_for_vllm(IMAGE_PYTHON) == ""
    assert "for Python 3.12, and the instances have Debian's 3.11" in missing_for_vllm("3.12")


def test_where_vllm_cannot_be_booted_the_other_parts_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert possible_parts(list(PARTS), IMAGE_PYTHON) == list(PARTS)
    assert possible_parts(["boot", VLLM_PART], "3.12") == ["boot"]
    assert "the part vllm is left out: its packages here are for Python 3.12" in capsys.readouterr().out
    with pytest.raises(UserActionRequired, match="vllm: its packages"):
        possible_parts([VLLM_PART], "3.12")


def test_all_that_is_missing_is_named_at_once() -> None:
    assert len(missing(Machine(is_root=False, programs=frozenset(), has_overlay=False, cgroups=""))) == 4


@pytest.mark.parametrize(
    ("mounts", "version"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", "v2"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n", "v1"),
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n", ""),
        ("proc /proc proc rw 0 0\n\n", ""),
        ("", ""),
    ],
)
def test_the_version_of_control_groups(mounts: str, version: str) -> None:
    assert cgroup_version(mounts) == version


def test_entries_of_a_lock_file_keep_their_hashes() -> None:
    assert locked(LOCK, ["h11", "click"]) == (
        "click==8.5.1 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\nh11==0.16.0 \\\n    --hash=sha256:dd\n"
    )
    with pytest.raises(ValueError, match="uvicorn"):
        locked(LOCK, ["h11", "uvicorn"])


def test_the_stand_in_engine_is_installed_from_the_lock_files() -> None:
    lock = "\n".join((ROOT / "requirements" / f"{name}.txt").read_text() for name in ("build", "dev"))
    text = locked(lock, STAND_IN)
    assert len(re.findall(r"^\w[\w-]*==", text, flags=re.MULTILINE)) == len(STAND_IN)
    assert text.count("--hash=sha256:") >= len(STAND_IN)


def test_hosts_have_the_names_that_the_sdks_call() -> None:
    assert service_hosts("us-east-1", ["s3", "ec2"], ["b"]) == [
        "ec2.us-east-1.amazonaws.com",
        "s3.us-east-1.amazonaws.com",
        "b.s3.us-east-1.amazonaws.com",
        "b.s3.amazonaws.com",
    ]
    assert service_hosts("eu-west-1", [], ["b"]) == ["b.s3.eu-west-1.amazonaws.com"]


def test_an_image_resolves_the_services_names_and_no_others() -> None:
    files = image_files(["ec2.us-east-1.amazonaws.com"], "PEM", "", Variant())
    assert files["etc/hosts"].splitlines()[1] == "10.71.1.1 ec2.us-east-1.amazonaws.com"
    assert files["etc/resolv.conf"] == ""
    assert ENGINE_ERROR[1:] not in files
    assert image_files([], "PEM", "", Variant(engine_error="ValueError"))[ENGINE_ERROR[1:]] == "ValueError"


def test_an_image_has_uvs_document_only_where_cpython_is_a_substitute() -> None:
    usual, changed = (image_files([], "PEM", document, Variant()) for document in ("", "{}"))
    settings = "etc/systemd/system.conf.d/90-boot.conf"
    assert UV_DOWNLOADS[1:] not in usual
    assert "UV_PYTHON" not in usual[settings]
    assert changed[UV_DOWNLOADS[1:]] == "{}"
    assert f"UV_PYTHON_DOWNLOADS_JSON_URL={UV_DOWNLOADS}" in changed[settings]


def test_the_variants_of_an_image() -> None:
    usual, bare, real = (
        image_of([], "PEM", "", variant) for variant in (Variant(), Variant(has_headers=False), Variant(has_vllm=True))
    )
    assert (usual.absent, usual.programs) == ((), frozenset())
    assert bare.absent == ("usr/include/python3.11/Python.h",)
    (program,) = real.programs
    assert real.files[program].splitlines()[-1].startswith(f"exec {VLLM_FOLDER}/bin/python -m vllm.entrypoints")
    assert VLLM_FOLDER in real.links.values()
    assert ENGINE_FOLDER not in real.links.values()


def test_the_stand_in_engine_is_where_the_install_script_expects_vllm() -> None:
    script = (ROOT / "stacks/boot/install.sh").read_text()
    assert 'digest() { cat "$@" | sha256sum | cut -c1-16; }' in script
    assert 'folder=$home/env/$name-$(digest "$lock" "$requirements/python.txt")' in script
    locks = [(ROOT / "requirements" / name).read_bytes() for name in ("engine.txt", "python.txt")]
    digest = hashlib.sha256(b"".join(locks)).hexdigest()[:16]
    assert image_links(Variant())[f"opt/synkti/env/engine-{digest}"] == ENGINE_FOLDER


def test_the_names_of_interfaces_are_short_enough_and_differ() -> None:
    names = {interface(f"10.71.0.{number}") for number in range(1, 251)}
    assert len(names) == 250
    assert max(map(len, names)) <= 15


def test_the_page_names_every_part_and_no_other() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    section = page.partition("## Instances that really boot")[2].partition("\n## ")[0]
    table = section.partition("| part |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, flags=re.MULTILINE) == list(PARTS)


def test_booted_nodes_have_keys_an_audit_log_and_tls_as_on_aws() -> None:
    booted, shipped = from_values({}, {**EMBEDDED, **SETTINGS}.get), FleetSettings()
    for name in ("api_keys", "audit_log", "peer_tls"):
        assert getattr(booted, name) is getattr(shipped, name) is True
    assert from_values({}, EMBEDDED.get).api_keys is False, "other local runs have no keys"


def test_the_launchers_words_are_those_that_a_run_looks_for() -> None:
    assert METADATA_REACHED in (ROOT / "node_agent" / "engine_launcher.py").read_text()


def test_a_run_begins_with_a_boot() -> None:
    assert next(iter(PARTS)) == "boot"


def test_the_group_of_a_process() -> None:
    assert unified_path("0::/run/i-1/payload/system.slice/synkti.service\n") == (
        "run/i-1/payload/system.slice/synkti.service"
    )
    assert unified_path("4:memory:/\n1:name=systemd:/a\n0::/b\n") == "b"
