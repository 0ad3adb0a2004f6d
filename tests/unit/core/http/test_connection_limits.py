"""Test the limits on a server's connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.http.connection_limits import RESERVED_PER_ADDRESS, ConnectionLimits, ConnectionSlot


def test_an_address_cannot_have_all_places() -> None:
    places = ConnectionLimits(max_connections=10, per_address=4, reserved=100)
    got = [places.acquire("a") for _ in range(4 + RESERVED_PER_ADDRESS + 1)]
    assert got == [ConnectionSlot.FULL] * 4 + [ConnectionSlot.HEALTH_ONLY_OF_ADDRESS] * RESERVED_PER_ADDRESS + [
        ConnectionSlot.NONE
    ]
    assert places.acquire("b") is ConnectionSlot.FULL


def test_a_full_server_has_connections_left_for_health() -> None:
    places = ConnectionLimits(max_connections=2, per_address=2, reserved=3)
    got = [places.acquire(address) for address in "abcdef"]
    assert got == [ConnectionSlot.FULL] * 2 + [ConnectionSlot.HEALTH_ONLY] * 3 + [ConnectionSlot.NONE]
    places.release("a", ConnectionSlot.FULL)
    assert places.acquire("g") is ConnectionSlot.FULL
    places.release("c", ConnectionSlot.HEALTH_ONLY)
    assert places.acquire("h") is ConnectionSlot.HEALTH_ONLY


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_closed_connections_leave_no_entry(steps: list[tuple[str, bool]]) -> None:
    places = ConnectionLimits(max_connections=5, per_address=3, reserved=4)
    inside: list[tuple[str, ConnectionSlot]] = []
    for address, leaves in steps:
        if leaves and inside:
            places.release(*inside.pop())
        elif (place := places.acquire(address)) is not ConnectionSlot.NONE:
            inside.append((address, place))
        assert places.in_use == sum(place is ConnectionSlot.FULL for _, place in inside) <= 5
    for address, place in inside:
        places.release(address, place)
    assert places == ConnectionLimits(max_connections=5, per_address=3, reserved=4)
