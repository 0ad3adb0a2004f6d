"""What every feature needs: addresses, backoff, signatures, bounds on log lines."""
