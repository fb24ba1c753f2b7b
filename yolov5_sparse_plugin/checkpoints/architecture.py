"""Whether `--cfg` describes the model that a sparse checkpoint holds.

Upstream transfers whatever fits, and trains the rest from random weights. Of a model that was pruned for weeks that is
never what was meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yolov5_sparse_plugin.errors import CheckpointError
from yolov5_sparse_plugin.hosts import model_yaml


def check(cfg: str, weights: str, ckpt: dict[str, Any]) -> None:
    """Refuse a `--cfg` of another architecture than the checkpoint's; the number of classes may differ.

    Raises:
        CheckpointError: naming the first layer that differs.
    """
    model = model_yaml.build(yaml.safe_load(Path(cfg).read_text(errors="ignore")))
    detect = f"model.{len(model.model) - 1}."  # its size goes with the number of classes
    asked = {n: list(v.shape) for n, v in model.state_dict().items() if not n.startswith(detect)}
    held = {n: list(v.shape) for n, v in ckpt["model"].state_dict().items() if not n.startswith(detect)}
    names = [*asked, *(name for name in held if name not in asked)]
    different = [name for name in names if asked.get(name) != held.get(name)]
    if different:
        first = different[0]
        raise CheckpointError(
            f"--cfg {cfg}: another model than {weights} holds: {len(different)} of {len(names)} tensors differ. The "
            f"first is {first}, {asked.get(first, 'missing')} in --cfg and {held.get(first, 'missing')} in the "
            "checkpoint. Leave --cfg out to take the checkpoint's own architecture, or name the file that it was "
            "trained with; zoo models of YOLOv5 5.0 need models_v5.0/yolov5s.yaml and the like."
        )
