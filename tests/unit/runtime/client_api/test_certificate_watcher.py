"""The client API's certificate is as new as its files; a bad pair changes nothing."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass, field

import pytest

from node_agent.contract.errors import ConfigurationError
from node_agent.core.http.certificate_watch import FileVersions
from node_agent.ports import LoadedCertificate, UnusableCertificateError
from node_agent.runtime.client_api.certificate_watcher import CertificateWatcher
from node_agent.runtime.common.metrics import Metrics

DAY = 86_400.0
NOW = 1_000 * DAY


@dataclass
class StoredCertificate:
    """The Certificate port in memory. days: until its end; None: it cannot be used."""

    days: float | None = 90.0
    version: int = 1
    loads: int = 0

    async def versions(self) -> FileVersions:
        return ((self.version,),)

    async def load(self) -> LoadedCertificate:
        self.loads += 1
        if self.days is None:
            raise UnusableCertificateError("the key is not that of the certificate")
        return LoadedCertificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), NOW + self.days * DAY)

    def replace(self, days: float | None) -> None:
        self.days, self.version = days, self.version + 1


@dataclass
class Stage:
    stored: StoredCertificate = field(default_factory=StoredCertificate)
    metrics: Metrics = field(default_factory=Metrics)
    now: float = NOW

    def __post_init__(self) -> None:
        self.watcher = CertificateWatcher(self.stored, self.metrics, lambda: self.now)

    def figure(self, line: str) -> float:
        lines = self.metrics.exposition().decode().splitlines()
        return next((float(each.split()[-1]) for each in lines if each.startswith(line)), 0.0)


def test_a_replaced_pair_comes_into_use_and_an_unchanged_one_is_not_loaded_again() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.watcher.load_first()
        first = stage.watcher.context()
        await stage.watcher.poll()
        assert stage.watcher.context() is first
        assert stage.stored.loads == 1
        assert stage.figure("synkti_certificate_days") == 90
        stage.stored.replace(60.0)
        await stage.watcher.poll()
        assert stage.watcher.context() is not first
        assert stage.figure("synkti_certificate_days") == 60
        assert stage.figure('synkti_certificate_loads_total{outcome="used"}') == 1

    asyncio.run(story())


@pytest.mark.parametrize("days", [None, -1.0], ids=["unusable", "expired"])
def test_a_bad_pair_leaves_the_one_in_use_and_is_logged_and_counted_once(
    days: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        stage = Stage()
        await stage.watcher.load_first()
        first = stage.watcher.context()
        stage.stored.replace(days)
        for _ in range(3):
            await stage.watcher.poll()
        assert stage.watcher.context() is first
        assert stage.figure('synkti_certificate_loads_total{outcome="unusable"}') == 1
        assert stage.figure("synkti_certificate_days") == 90
        stage.stored.replace(30.0)
        await stage.watcher.poll()
        assert stage.watcher.context() is not first

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    (record,) = caplog.records
    assert "the present one stays" in record.message


def test_an_end_that_is_near_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        stage = Stage(StoredCertificate(13.0))
        await stage.watcher.load_first()
        await stage.watcher.poll()

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    (record,) = caplog.records
    assert "it ends in 13.0 days" in record.message


def test_a_node_does_not_start_with_a_pair_that_cannot_be_used() -> None:
    with pytest.raises(ConfigurationError) as error:
        asyncio.run(Stage(StoredCertificate(None)).watcher.load_first())
    assert error.value.faults == ("SYNKTI_TLS_CERTIFICATE, SYNKTI_TLS_KEY: the key is not that of the certificate",)
