"""What a YOLOv5 looks like: the only place that knows which one is in use. It knows nothing of what is done to it."""
