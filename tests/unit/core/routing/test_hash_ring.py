"""Test the hash ring: the same at every node, and little changed when a node joins or leaves."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.routing.hash_ring import HashRing, key_of

KEYS = [key_of(b"%d" % number) for number in range(400)]
NAMES = st.sets(st.text("abcdef", min_size=1, max_size=3), max_size=12)


@given(NAMES, NAMES, st.randoms(use_true_random=False))
def test_a_ring_does_not_depend_on_the_order_of_changes(
    names: set[str], passing: set[str], order: random.Random
) -> None:
    direct: HashRing[str] = HashRing()
    direct.add_all({name: name for name in sorted(names)})
    roundabout: HashRing[str] = HashRing()
    together = list(names | passing)
    order.shuffle(together)
    for name in together:
        roundabout.add(name, name)
    order.shuffle(together)
    for name in together:
        if name not in names:
            roundabout.remove(name)
    for key in KEYS[:40]:
        assert direct.owner(key) == roundabout.owner(key)
        assert list(direct.walk(key)) == list(roundabout.walk(key))
    assert len(direct) == len(names)
    assert set(direct) == names


def test_nodes_added_at_once_get_the_same_places_as_one_by_one() -> None:
    one_by_one: HashRing[int] = HashRing()
    at_once: HashRing[int] = HashRing()
    for number in range(3):
        one_by_one.add(f"n{number}", number)
        at_once.add(f"n{number}", number)
    for number in range(2, 40):
        one_by_one.add(f"n{number}", number * 10)
    at_once.add_all({f"n{number}": number * 10 for number in range(2, 40)})
    assert [list(one_by_one.walk(key)) for key in KEYS[:20]] == [list(at_once.walk(key)) for key in KEYS[:20]]


def test_a_walk_visits_each_node_once_and_its_owner_first() -> None:
    ring: HashRing[str] = HashRing()
    assert ring.owner(7) is None
    assert list(ring.walk(7)) == []
    ring.add_all({name: name for name in "abcdefgh"})
    for key in KEYS:
        walk = list(ring.walk(key))
        assert walk[0] == ring.owner(key)
        assert sorted(walk) == list("abcdefgh")
    ring.remove("not there")
    assert "a" in ring


def test_a_new_node_takes_its_share_and_moves_nothing_else() -> None:
    ring: HashRing[str] = HashRing()
    ring.add_all({name: name for name in "abcdefghi"})
    before = {key: ring.owner(key) for key in KEYS}
    ring.add("z", "z")
    moved = [key for key in KEYS if ring.owner(key) != before[key]]
    assert all(ring.owner(key) == "z" for key in moved)
    assert 0.03 < len(moved) / len(KEYS) < 0.2  # a tenth


def test_shares_are_even_enough_for_bounded_loads_to_do_the_rest() -> None:
    ring: HashRing[int] = HashRing()
    ring.add_all({f"i-{number:017x}": number for number in range(20)})
    keys = [random.Random(1).getrandbits(64) ^ key_of(b"%d" % number) for number in range(20_000)]
    shares = Counter(ring.owner(key) for key in keys)
    assert min(shares.values()) / 1_000 > 0.6
    assert max(shares.values()) / 1_000 < 1.5
