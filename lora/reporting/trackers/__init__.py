"""Trackers of experiments: TensorBoard, Weights & Biases, Trackio. None of them can end a training or slow it."""
