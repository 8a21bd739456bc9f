"""What a training shows: its report page and its trackers."""
