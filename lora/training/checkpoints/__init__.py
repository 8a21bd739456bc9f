"""Nothing is lost: states on disk, and where a training begins."""
