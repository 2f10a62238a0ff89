"""Jobs over many shards, and the command line."""
