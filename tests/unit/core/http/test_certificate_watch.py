"""When a certificate is loaded again, and when its end is a warning."""

from __future__ import annotations

import pytest

from node_agent.core.http.certificate_watch import WARN_DAYS, WARN_EVERY_S, CertificateWatch

DAY = 86_400.0
NOW = 1_000 * DAY
ONE, TWO = ((1, 5, 5, 100), (2, 5, 5, 100)), ((1, 6, 6, 100), (2, 5, 5, 100))


def test_what_is_stored_is_loaded_once_for_each_change() -> None:
    watch = CertificateWatch()
    assert watch.is_changed(ONE)
    assert not watch.is_changed(ONE), "also where it could not be used: it is not tried every time"
    assert watch.is_changed(TWO)
    assert watch.is_changed((None, TWO[1]))


@pytest.mark.parametrize(
    ("used_until", "new_until", "is_used"),
    [(10, 90, True), (10, 5, True), (10, -1, False), (-5, -1, True), (-1, -5, False)],
    ids=["renewed", "shorter", "expired", "less expired", "more expired"],
)
def test_an_expired_certificate_does_not_replace_a_better_one(used_until: int, new_until: int, is_used: bool) -> None:
    watch = CertificateWatch()
    watch.use(NOW + used_until * DAY)
    assert (watch.rejection_reason(NOW + new_until * DAY, NOW) is None) is is_used


def test_the_end_is_a_warning_once_a_day_until_it_is_replaced() -> None:
    watch = CertificateWatch()
    watch.use(NOW + WARN_DAYS * DAY)
    assert watch.days_left(NOW) == WARN_DAYS
    assert watch.warning(NOW) is None
    at = NOW + 1
    assert watch.warning(at) == "it ends in 14.0 days; replace both files before"
    assert watch.warning(at + WARN_EVERY_S - 1) is None
    assert watch.warning(at + WARN_EVERY_S) is not None
    assert watch.warning(NOW + 20 * DAY) == "it ended 6.0 days ago: clients refuse it; replace both files"
    watch.use(NOW + 90 * DAY)
    assert watch.warning(NOW + 20 * DAY) is None
