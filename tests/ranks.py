"""One of several processes that train together with gloo on the CPU; started by test_ranks.py.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=… python ranks.py WRITTEN.json --data … …

Upstream's `train()` wraps its model in DistributedDataParallel on CUDA only, and hands devices to it and to barriers,
which gloo does not take. Those conditions are lifted, the rest is upstream's function as it stands, and the plugin's
own doorway is in front of it. Everything that this process opens for writing is noted.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import sys
from pathlib import Path

import yaml

WRITTEN: list[str] = []


def note_writing(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str):
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR):
            WRITTEN.append(os.path.abspath(path))


class OnTheCpu(ast.NodeTransformer):
    """`cuda and RANK != -1` becomes `RANK != -1`."""

    found = 0

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        if ast.unparse(node) != "cuda and RANK != -1":
            return node
        self.found += 1
        return node.values[1]


def main() -> None:
    import torch
    import torch.distributed
    import yolov5.train
    from torch.nn.parallel import DistributedDataParallel
    from yolov5.utils import torch_utils
    from yolov5.utils.callbacks import Callbacks

    from yolov5_sparse_plugin.attach import doorways

    written = sys.argv.pop(1)
    barrier = torch.distributed.barrier
    torch.distributed.barrier = lambda device_ids=None: barrier()
    torch_utils.DDP = lambda model, device_ids, output_device, **kwargs: DistributedDataParallel(model, **kwargs)
    upstream = getattr(yolov5.train.train, doorways.MARK)
    tree = ast.increment_lineno(ast.parse(inspect.getsource(upstream)), upstream.__code__.co_firstlineno - 1)
    lifted = OnTheCpu()
    exec(compile(lifted.visit(tree), upstream.__code__.co_filename, "exec"), yolov5.train.__dict__)
    assert lifted.found == 1, "upstream asks otherwise than 'cuda and RANK != -1'"
    train = doorways.train(yolov5.train.__dict__["train"])

    torch.distributed.init_process_group("gloo")
    opt = yolov5.train.parse_opt(True)
    if opt.resume:  # what upstream's main() does
        recorded = yaml.safe_load((Path(opt.resume).parent.parent / "opt.yaml").read_text())
        opt = argparse.Namespace(**{**recorded, "cfg": "", "weights": opt.resume, "resume": True})
    else:
        opt.cfg = yolov5.train.check_yaml(opt.cfg)
        opt.save_dir = str(Path(opt.project) / opt.name)
    sys.addaudithook(note_writing)
    try:
        train(opt.hyp, opt, torch.device("cpu"), Callbacks())
    finally:
        Path(written).write_text(json.dumps([path for path in WRITTEN if "/dev/" not in path]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
