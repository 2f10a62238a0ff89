"""Bytes to samples and back: storage, shards, media, tokens, corpora and voices."""
