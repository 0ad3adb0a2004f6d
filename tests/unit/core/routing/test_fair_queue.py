"""Test the order of waiting requests: keys take turns by tokens, none starves, none saves up or escapes its debts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.routing.fair_queue import MAX_BALANCE, MAX_WEIGHT, QUANTUM, FairQueue


def serve_all(queue: FairQueue, count: int | None = None) -> list[int]:
    order: list[int] = []
    while (number := queue.next) is not None and len(order) != count:
        assert queue.next == number  # a look changes nothing
        queue.serve(number)
        order.append(number)
    return order


def test_within_a_key_requests_are_served_in_their_order() -> None:
    queue = FairQueue()
    for number, weight in enumerate((5_000, 1, 90_000, 7)):
        queue.push(number, "a", weight)
    assert serve_all(queue) == [0, 1, 2, 3]
    assert queue.next is None
    assert len(queue) == queue.keys == 0


def test_two_keys_take_turns_by_tokens_and_not_by_requests() -> None:
    queue = FairQueue(quantum=100)
    keys = {}
    for number in range(200):
        key, weight = ("many", 10) if number % 2 else ("long", 100)
        keys[number] = (key, weight)
        queue.push(number, key, weight)
    tokens: Counter[str] = Counter()
    for number in serve_all(queue, 55):
        tokens.update({keys[number][0]: keys[number][1]})
    assert abs(tokens["many"] - tokens["long"]) <= 200


def test_a_key_that_asks_ten_times_as_much_gets_no_more() -> None:
    queue, keys = FairQueue(quantum=100), {}
    for number in range(220):
        key = "small" if number % 11 == 0 else "large"
        keys[number] = key
        queue.push(number, key, 100)
    served = Counter(keys[number] for number in serve_all(queue, 30))
    assert abs(served["small"] - served["large"]) <= 2


def test_a_request_of_any_weight_is_found_without_counting_rounds() -> None:
    queue = FairQueue()
    queue.push(1, "a", 2**62)
    queue.push(2, "b", MAX_WEIGHT - QUANTUM)
    assert serve_all(queue) == [2, 1]


def test_removed_requests_leave_nothing_behind() -> None:
    queue = FairQueue()
    queue.push(1, "a", 10)
    queue.push(2, "a", 10)
    queue.push(3, "b", 10)
    assert queue.next == 1
    queue.remove(1)
    queue.remove(1)
    assert queue.next == 2
    assert (queue.waiting("a"), queue.waiting("b"), queue.keys, 1 in queue) == (1, 1, 2, False)
    queue.remove(2)
    assert (queue.waiting("a"), queue.keys) == (0, 1)
    assert serve_all(queue) == [3]


def test_a_key_saves_nothing_up_while_it_asks_for_nothing() -> None:
    queue = FairQueue(quantum=100)
    queue.push(1, "a", 1)
    assert serve_all(queue) == [1]  # 99 tokens were left of its turn
    queue.push(2, "b", 100)
    queue.push(3, "a", 100)
    assert serve_all(queue) == [2, 3]


def test_an_answer_longer_than_estimated_is_paid_for_by_the_next_turns() -> None:
    queue = FairQueue(quantum=100)
    for number in range(20):
        queue.push(number, "ab"[number % 2], 100)
    queue.charge("a", 500)
    first = serve_all(queue, 5)
    assert all(number % 2 for number in first)
    queue.charge("a", 10**9)
    later = serve_all(queue)
    assert len(later) == 15  # a bounded debt: it is paid, and no request is lost


def test_a_debt_outlives_the_last_waiting_request_and_is_bounded() -> None:
    queue = FairQueue(quantum=100)
    queue.charge("a", 500)  # nothing waits: it took nothing from others
    for number in range(4):
        queue.push(number, "ab"[number % 2], 100)
    assert serve_all(queue) == [0, 1, 2, 3]
    queue.push(4, "b", 100)
    queue.charge("a", 250)
    queue.push(5, "a", 100)
    queue.push(6, "b", 100)
    queue.push(7, "b", 100)
    assert serve_all(queue)[-1] == 5
    for number in range(3_000):
        queue.push(number, "waits", 1)
        queue.charge(f"k{number}", 5)
    assert len(queue._balances) <= 1_024


def test_an_answer_shorter_than_estimated_is_returned_to_its_key() -> None:
    queue = FairQueue(quantum=100)
    for number in range(20):
        queue.push(number, "ab"[number % 2], 100)
    queue.charge("a", -500)
    assert [number % 2 for number in serve_all(queue, 5)].count(0) == 5
    queue.remove(12)
    for number in (10, 14, 16, 18):
        queue.remove(number)
    queue.charge("a", -(10**9))  # none of its requests waits: it stays for the next one, within a bound
    queue.push(20, "a", MAX_BALANCE)
    queue.push(21, "a", MAX_BALANCE)
    assert serve_all(queue, 3).count(20) == 1
    assert 21 in serve_all(queue)


def test_a_key_whose_request_waited_too_long_keeps_what_it_could_spend() -> None:
    queue = FairQueue(quantum=100)
    queue.push(0, "b", 50)
    for number in range(1, 30):
        queue.push(number, "b", 100)
    queue.push(100, "a", 1_000)
    assert len(serve_all(queue, 5)) == 5
    queue.remove(100, waited_in_vain=True)
    queue.push(101, "a", 1_000)
    order = serve_all(queue)
    with_balance = order.index(101)
    queue.push(200, "a", 1_000)
    for number in range(300, 330):
        queue.push(number, "b", 100)
    assert with_balance < serve_all(queue).index(200)  # that one began with nothing


@given(
    st.lists(st.tuples(st.sampled_from("pppsr"), st.sampled_from("abcde"), st.integers(-3, 2_000_000)), max_size=120)
)
def test_each_request_leaves_once_and_in_its_keys_order(steps: list[tuple[str, str, int]]) -> None:
    queue, waiting = FairQueue(), dict[int, str]()
    for number, (step, key, weight) in enumerate(steps):
        if step == "p":
            queue.push(number, key, weight)
            waiting[number] = key
        elif waiting:
            of_key = [n for n in waiting if waiting[n] == key] or list(waiting)
            chosen = queue.next if step == "s" else of_key[-1]
            assert chosen is not None
            if step == "s":
                assert chosen == min(n for n in waiting if waiting[n] == waiting[chosen])
                queue.serve(chosen)
            else:
                queue.remove(chosen)
            del waiting[chosen]
        queue.charge(key, weight // 2)
        assert len(queue) == len(waiting)
        assert queue.keys == len(set(waiting.values()))
    assert sorted(serve_all(queue)) == sorted(waiting)


@given(
    st.lists(st.integers(1, 50_000), min_size=1, max_size=40),
    st.lists(st.lists(st.integers(1, 50_000), max_size=60), max_size=6),
)
def test_no_key_starves_whatever_the_others_send(own: list[int], others: list[list[int]]) -> None:
    """A key's first request is served before another key has had more than it and its debts cost, and a few turns."""
    queue, weights, keys = FairQueue(), dict[int, int](), dict[int, str]()
    number = 0
    for index, line in enumerate([own, *others]):
        for weight in line:
            keys[number], weights[number] = f"k{index}", weight
            queue.push(number, f"k{index}", weight)
            number += 1
    had: Counter[str] = Counter()
    while (chosen := queue.next) != 0:
        assert chosen is not None
        had.update({keys[chosen]: weights[chosen]})
        queue.serve(chosen)
    assert all(tokens <= own[0] + MAX_BALANCE + 2 * QUANTUM for tokens in had.values())
