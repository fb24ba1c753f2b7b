"""Export: turn the ONNX graph that YOLOv5 writes of a quantized model into one that is right and fast in an engine."""
