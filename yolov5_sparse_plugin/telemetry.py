"""What SparseML and DeepSparse tell their makers over the network while they are imported: nothing."""

import os


def switch_off() -> None:
    """Switch analytics and looking for newer versions off, unless the user has decided; before the first import."""
    os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")
    os.environ.setdefault("NM_VERSION_CHECK", "false")
