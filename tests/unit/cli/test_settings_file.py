"""Settings that are written into synkti.toml, whose other lines stay as they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cli.core.settings_file import Value, lines_of, with_settings
from cli.errors import Failed
from stacks.settings import SETTINGS_FILE, load

ROOT = Path(__file__).parents[3]
FOUND: dict[str, Value] = {"vpc_id": "vpc-01234567", "subnet_ids": ("subnet-01234567", "subnet-89abcdef")}


def test_a_commented_default_is_replaced_and_its_comment_kept() -> None:
    text = 'nodes = 3\n# vpc_id = ""      # of a default or existing VPC\n# subnet_ids = []\ndrills = true\n'
    assert with_settings(text, FOUND) == (
        'nodes = 3\nvpc_id = "vpc-01234567"  # of a default or existing VPC\n'
        'subnet_ids = ["subnet-01234567", "subnet-89abcdef"]\ndrills = true\n'
    )


def test_a_setting_is_replaced_before_a_commented_one() -> None:
    text = '# image_id = ""\nimage_id = "ami-1" # pinned\n'
    assert with_settings(text, {"image_id": "ami-2"}) == '# image_id = ""\nimage_id = "ami-2" # pinned\n'


@pytest.mark.parametrize("text", ["", "nodes = 3\n", "nodes = 3"])
def test_a_setting_that_the_file_does_not_name_is_added(text: str) -> None:
    assert tomllib.loads(with_settings(text, {"vpc_id": "vpc-1"})) == {**tomllib.loads(text), "vpc_id": "vpc-1"}


def test_a_comment_that_only_mentions_a_setting_is_left_alone() -> None:
    text = "# image_id may be set here\n"
    assert with_settings(text, {"image_id": "ami-1"}) == text + 'image_id = "ami-1"\n'


@pytest.mark.parametrize("text", ["vpc_id = [\n1]\n", "[table]\nx = 1\n", 'vpc_id = """\na"""\n'])
def test_a_file_that_cannot_be_changed_safely_is_refused_with_the_lines(text: str) -> None:
    with pytest.raises(Failed) as caught:
        with_settings(text, {"vpc_id": "vpc-1"})
    assert caught.value.advice.endswith('vpc_id = "vpc-1"')


def test_the_shipped_file_can_be_changed(tmp_path: Path) -> None:
    account: dict[str, Value] = {
        "account": "123456789012",
        "region": "us-east-1",
        "vpc": "existing",
        "route_table_ids": ("rtb-01234567",),
    }
    shipped = (ROOT / SETTINGS_FILE).read_text()
    changed = with_settings(shipped, {**account, **FOUND})
    (tmp_path / SETTINGS_FILE).write_text(changed)
    assert load(tmp_path, lambda key: None).subnet_ids == FOUND["subnet_ids"]
    assert len(changed.splitlines()) == len(shipped.splitlines()), "each was there as a comment"
    assert lines_of(FOUND).startswith('vpc_id = "vpc-01234567"\nsubnet_ids = [')
