"""Observe this node's vLLM: its metrics, its liveness, and each engine's lifetime."""
