"""Who may connect to a door."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.http.connection_limits import RESERVED_PER_ADDRESS, ConnectionLimits, ConnectionSlot


def test_an_address_cannot_have_all_places() -> None:
    places = ConnectionLimits(most=10, per_address=4, reserved=100)
    got = [places.enter("a") for _ in range(4 + RESERVED_PER_ADDRESS + 1)]
    assert got == [ConnectionSlot.FULL] * 4 + [ConnectionSlot.HEALTH_ONLY_OF_ADDRESS] * RESERVED_PER_ADDRESS + [
        ConnectionSlot.NONE
    ]
    assert places.enter("b") is ConnectionSlot.FULL


def test_a_full_door_has_places_for_health() -> None:
    places = ConnectionLimits(most=2, per_address=2, reserved=3)
    got = [places.enter(address) for address in "abcdef"]
    assert got == [ConnectionSlot.FULL] * 2 + [ConnectionSlot.HEALTH_ONLY] * 3 + [ConnectionSlot.NONE]
    places.leave("a", ConnectionSlot.FULL)
    assert places.enter("g") is ConnectionSlot.FULL
    places.leave("c", ConnectionSlot.HEALTH_ONLY)
    assert places.enter("h") is ConnectionSlot.HEALTH_ONLY


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_what_left_is_not_remembered(steps: list[tuple[str, bool]]) -> None:
    places = ConnectionLimits(most=5, per_address=3, reserved=4)
    inside: list[tuple[str, ConnectionSlot]] = []
    for address, leaves in steps:
        if leaves and inside:
            places.leave(*inside.pop())
        elif (place := places.enter(address)) is not ConnectionSlot.NONE:
            inside.append((address, place))
        assert places.taken == sum(place is ConnectionSlot.FULL for _, place in inside) <= 5
    for address, place in inside:
        places.leave(address, place)
    assert places == ConnectionLimits(most=5, per_address=3, reserved=4)
