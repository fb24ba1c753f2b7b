"""`python -m yolov5_sparse_plugin train.py …` in a git checkout of YOLOv5, also behind `torchrun -m`."""

from __future__ import annotations

import sys

from yolov5_sparse_plugin.attach import runner

if __name__ == "__main__":
    sys.exit(runner.main(sys.argv[1:]))
