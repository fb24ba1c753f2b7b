"""How we get into a YOLOv5: the one room that knows hosts, training and export."""
