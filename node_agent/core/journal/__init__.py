"""The journal of one stream: its header, its records, its tokens, and the epochs of its owners."""
