"""Images without a caption to captions, by a model."""
