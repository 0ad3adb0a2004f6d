"""This node's vLLM and those of its peers: started, watched, and called."""
