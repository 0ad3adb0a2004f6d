"""KV blocks, fetched from peers and S3, and served to them."""
