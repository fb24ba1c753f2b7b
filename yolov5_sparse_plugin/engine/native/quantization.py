from yolov5_sparse_plugin.engine.native.base import Modifier


class Quantization(Modifier):
    quantized = False
