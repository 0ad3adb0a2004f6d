"""What this node's vLLM does: its metrics, whether it works, and its life."""
