"""A cache of downloaded files. Knows no network, no service and no secret."""
