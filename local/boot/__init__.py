"""Boots instances for real, on one machine: systemd-nspawn, systemd, cloud-init, the launch template's user data."""
