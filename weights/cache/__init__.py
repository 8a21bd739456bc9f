"""Files that were downloaded, for the next time. Knows no network, no service and no secret."""
