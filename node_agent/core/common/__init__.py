"""Shared helpers: addresses, backoff, request signatures, packed JSON, log limits."""
