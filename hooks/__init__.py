"""What the plugin does to YOLOv5, one file per capability. Delete one, and YOLOv5 trains without that capability."""
