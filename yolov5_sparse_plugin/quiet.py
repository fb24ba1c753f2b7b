"""Deprecations that a user of YOLOv5 can do nothing about: once a batch, in the middle of the progress bar.

YOLOv5 7.0 calls torch.cuda.amp, which torch >= 2.4 would rather have called torch.amp, and imports pkg_resources.
Standard library only: it is imported right before YOLOv5's own modules are.
"""

import warnings

NOISE = (
    (r"`?torch\.cuda\.amp\.", FutureWarning),
    (r"pkg_resources is deprecated", UserWarning),
)


def down() -> None:
    """Leave them out. Whoever asks for warnings, with `-W` or PYTHONWARNINGS, gets them: theirs stand before ours."""
    for message, category in NOISE:
        warnings.filterwarnings("ignore", message, category, append=True)
