"""What every modifier of a recipe has."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from yolov5_sparse_plugin.engine.schema.values import Start


class Plain(BaseModel):
    """Unknown fields are refused, and what is no finite number is no number."""

    # built when first used: reading a checkpoint imports the schema, and validates no recipe
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True)


class Modifier(Plain):
    """What every modifier has: when it starts."""

    start_epoch: Start = -1.0

    @property
    def start(self) -> float:
        return max(self.start_epoch, 0.0)


def ends_after_start(self: Any) -> Any:
    if self.end_epoch != -1 and self.end_epoch <= self.start:
        raise ValueError(f"end_epoch {self.end_epoch:g} is not after start_epoch {self.start:g}")
    return self
