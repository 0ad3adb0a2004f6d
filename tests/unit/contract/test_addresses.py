"""Where a node may be: an IPv4 address of one node and a port; a tag with anything else counts as absent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.addresses import node_address, read_node_address
from node_agent.contract.states import NodeState
from node_agent.contract.tags import ADDRESS_TAG, DEADLINE_TAG, STATE_TAG, NodeTags, decode_tags, tags_from_ec2

ODD = ["10.71.3.7", "node-7.internal:8001", "[::1]:8001", "::1", "10.71.3.7:0", "10.71.3.7:65536", "10.71.3.7:-1",
       "10.71.3.7:8001 ", "10.71.3.7:٨٠", "10.71.3.7:²", "0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "",
       "169.254.169.254:80", "10.71.3:8001", "010.71.3.7:8001", ":8001", "1" * 5_000,
       "10.71.3.7:" + "1" * 5_000]  # fmt: skip


@given(st.ip_addresses(v=4, network="10.0.0.0/8"), st.integers(1, 65_535))
def test_an_address_and_a_port_are_read(host: object, port: int) -> None:
    assert read_node_address(f"{host}:{port}") == (str(host), port)


@pytest.mark.parametrize("text", ODD, ids=lambda text: repr(text)[:30])
def test_anything_else_is_refused_and_as_a_tag_absent(text: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4|single node"):
        read_node_address(text)
    assert node_address(text) is None
    tags = NodeTags("synkti", NodeState.READY).encode() | {ADDRESS_TAG: text}
    assert decode_tags(tags) == NodeTags("synkti", NodeState.READY)


@given(st.text(), st.text(), st.text())
def test_tags_of_any_text_are_read_in_part(state: str, address: str, deadline: str) -> None:
    tags = NodeTags("synkti", None).encode() | {STATE_TAG: state, ADDRESS_TAG: address, DEADLINE_TAG: deadline}
    decoded = decode_tags(tags)
    assert decoded is not None
    assert decoded.cluster == "synkti"


@pytest.mark.parametrize(
    "listed", [None, 5, "x", [5], [{}], [{"Key": "a"}], [{"Key": 1, "Value": "b"}], [{"Key": "a", "Value": None}]]
)
def test_an_invalid_list_of_tags_has_none(listed: object) -> None:
    assert tags_from_ec2(listed) == {}
