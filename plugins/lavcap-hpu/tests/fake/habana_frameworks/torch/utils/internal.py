"""In which mode the bridge was started."""

import os

_LAZY = os.environ.get("PT_HPU_LAZY_MODE", "1") == "1"  # read once, as the real one


def is_lazy():
    return _LAZY
