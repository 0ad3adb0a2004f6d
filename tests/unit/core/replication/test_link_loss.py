"""Test what a lost connection to a replica says about its node."""

from __future__ import annotations

import pytest

from node_agent.core.failure.loss import LossReason
from node_agent.core.replication.link_loss import LinkLossReason


@pytest.mark.parametrize(
    ("reason", "loss_reason"),
    [
        (LinkLossReason.REFUSED, LossReason.REFUSED),
        (LinkLossReason.UNREACHABLE, LossReason.UNREACHABLE),
        (LinkLossReason.RESET, LossReason.RESET),
        (LinkLossReason.EOF, LossReason.EOF),
        (LinkLossReason.BROKEN, LossReason.BROKEN),
        (LinkLossReason.SILENT, LossReason.OTHER),
        (LinkLossReason.TURNED_AWAY, LossReason.OTHER),
        (LinkLossReason.TOO_SLOW, LossReason.OTHER),
        (LinkLossReason.UNKNOWN, LossReason.OTHER),
    ],
)
def test_a_link_that_is_lost_as_an_exchange_would_be_says_the_same_about_the_node(
    reason: LinkLossReason, loss_reason: LossReason
) -> None:
    assert reason.loss_reason is loss_reason


def test_the_labels_of_the_metric_stay() -> None:
    labels = "refused unreachable reset eof broken silent turned-away too-slow unknown"
    assert [str(reason) for reason in LinkLossReason] == labels.split()
