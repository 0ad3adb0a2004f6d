"""Keep the client API's certificate as new as its files: load them at the start, and again when they change.

A pair that cannot be used leaves the one in use: that is logged and counted, and tried again when the files change.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

from node_agent.contract.errors import ConfigurationError
from node_agent.core.http.certificate_watch import CertificateWatch
from node_agent.ports import Certificate, LoadedCertificate, UnusableCertificateError
from node_agent.runtime.common.metrics import Metrics

POLL_S = 5.0
_log = logging.getLogger(__name__)


class CertificateWatcher:
    """Watches one certificate. clock: unix seconds."""

    def __init__(
        self,
        certificate: Certificate,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._certificate = certificate
        self._metrics = metrics
        self._clock = clock
        self._watch = CertificateWatch()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context of new connections. Call it after `load_first`."""
        if self._context is None:
            raise RuntimeError("no certificate was loaded")
        return self._context

    async def load_first(self) -> None:
        """Load the certificate before the server starts. Raises ConfigurationError where it cannot be used."""
        self._watch.is_changed(await self._certificate.versions())
        try:
            loaded = await self._certificate.load()
        except UnusableCertificateError as error:
            raise ConfigurationError([f"SYNKTI_TLS_CERTIFICATE, SYNKTI_TLS_KEY: {error}"]) from error
        self._use(loaded)
        self._report()

    async def run(self) -> None:
        """Look at the files every POLL_S, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.poll()

    async def poll(self) -> None:
        """Load the files again where they have changed, and report how long the certificate in use is valid."""
        if self._watch.is_changed(await self._certificate.versions()):
            await self._reload()
        self._report()

    async def _reload(self) -> None:
        try:
            loaded = await self._certificate.load()
        except UnusableCertificateError as error:
            self._reject(str(error))
            return
        if (reason := self._watch.rejection_reason(loaded.expires_at, self._clock())) is not None:
            self._reject(reason)
            return
        self._use(loaded)
        self._metrics.certificate_loads.labels("used").inc()
        _log.info("a new certificate is in use, for %.0f days", self._watch.days_left(self._clock()))

    def _use(self, loaded: LoadedCertificate) -> None:
        self._context = loaded.context
        self._watch.use(loaded.expires_at)

    def _reject(self, reason: str) -> None:
        self._metrics.certificate_loads.labels("unusable").inc()
        _log.error("the new certificate is not used, and the present one stays: %s", reason)

    def _report(self) -> None:
        now = self._clock()
        self._metrics.certificate_days.set(self._watch.days_left(now))
        if (warning := self._watch.warning(now)) is not None:
            _log.warning("the client API's certificate: %s", warning)
