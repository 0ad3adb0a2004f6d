"""How the scripts recognize a node that serves, as the substitutes of curl, aws and systemctl answer."""

from __future__ import annotations

from tests.unit.boot.conftest import Instance

SERVES = 'case "$*" in *api/token*) echo token;; *instance-id*) echo {node};; *readyz*) {ready};; *) exit 22;; esac'


UNIT_STATUS = (
    'case "$*" in *SubState*) echo running;; *StatusText*) printf "ActiveState={active}\nStatusText={status}\n";; esac'
)


def completed(instance: Instance) -> list[str]:
    found = [call for call in instance.calls if "complete-lifecycle-action" in call]
    return [call.partition("--lifecycle-action-result ")[2].split()[0] for call in found]
