"""Spectral sparse attention: exact on the tiles of keys that matter to a tile of queries, one centroid for every other tile."""
