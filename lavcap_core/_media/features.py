"""Reads ready vectors of a clip: ``.npy`` files [N, D]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavcap_core.errors import DataError

MAX_BYTES = 256 * 2**20
"""Size of the largest file's vectors in float32."""


def read_features(file: str, width: int | None = None) -> NDArray[np.float32]:
    """Vectors [N, width]; without a width, of any.

    Raises:
        DataError: D001 if there is no such file or it is no ``.npy``; D002 if it holds no vectors of this width.
    """
    try:
        # Mapped, so that a header that promises terabytes costs nothing.
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError("D001", f"can't be read as .npy: {error}", file=file) from None
    if not isinstance(found, np.ndarray):
        raise DataError("D001", "is an archive of several arrays", help="save one array with numpy.save", file=file)
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not found.size or width not in (None, found.shape[1]):
        message = f"holds {found.dtype} {list(found.shape)}, and vectors [N, {width or 'D'}] are wanted"
        raise DataError("D002", message, help="compare with the width of the spec's encoder", file=file)
    if found.size * 4 > MAX_BYTES:
        raise DataError("D002", f"holds {len(found)} vectors, more than {MAX_BYTES // 2**20} MiB", file=file)
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        vectors = np.array(found, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise DataError("D002", "holds numbers that are not finite", file=file)
    return vectors


def share(vectors: NDArray[np.float32], start: float, seconds: float, span: float) -> NDArray[np.float32] | None:
    """Those vectors of a clip that belong to a window; None if none does.

    Args:
        vectors: [N, D], spread evenly over the clip: vector i stands at ``(i + 0.5) / N`` of it.
        start: where the window begins, in seconds.
        seconds: length of the window.
        span: length of the clip.
    """
    times = (np.arange(len(vectors)) + 0.5) * span / len(vectors)
    kept = vectors[(times >= start) & (times < start + seconds)]
    return kept if len(kept) else None
