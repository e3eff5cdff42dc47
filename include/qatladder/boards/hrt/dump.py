"""The raw dumps of `infer`: found by index, held against the size the board states, read without their padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from qatladder.boards.hrt.results import TensorInfo
from qatladder.errors import ArtifactError, BrokenError
from qatladder.numerics import dumps


def find_dumps(folder: Path, side: str = "output") -> dict[int, Path]:
    """Binary dump files of a folder by tensor index, whether or not the build put the tensor's name into the file name.

    Raises:
        BrokenError: kind `dump_ambiguous`: two files of one index, as when two builds dumped into one folder.
    """
    try:
        return dumps.find_dumps(folder, side, ("bin",))
    except ArtifactError as error:
        raise BrokenError(error.message, error.next_step, kind="dump_ambiguous", **error.where) from error


def check_dump(path: Path, tensor: TensorInfo) -> None:
    """Hold a binary dump's size against the bytes the board states for the tensor.

    Raises:
        BrokenError: kind `dump_missing`, `dump_truncated` (too short) or `dump_size` (too long).
    """
    expected = _byte_size(tensor)
    if not path.is_file():
        raise BrokenError("a dump is missing", kind="dump_missing", file=path, tensor=tensor.name or tensor.index)
    found = path.stat().st_size
    if found != expected:
        raise BrokenError(
            "a dump is truncated" if found < expected else "a dump holds more bytes than its tensor",
            kind="dump_truncated" if found < expected else "dump_size",
            file=path,
            tensor=tensor.name or tensor.index,
            expected=f"{expected} bytes",
            found=f"{found} bytes",
            next_step="check the disk space of the board and that the dump and model_info belong to the same model",
        )


def read_dump(path: Path, tensor: TensorInfo) -> npt.NDArray[np.generic]:
    """Read a raw binary dump and take the padding off.

    Args:
        path: `model_infer_output_<i>[_<name>].bin`, aligned, little endian.
        tensor: what `model_info` says of it: dtype, valid shape, and stride (or the aligned shape on builds without strides).
    Returns:
        A contiguous array of `tensor.valid_shape`, raw elements (integers are not dequantised, floats may be NaN).
    Raises:
        BrokenError: see `check_dump`; kind `console` when stride and size contradict each other.
    """
    check_dump(path, tensor)
    if tensor.dtype is None:
        raise BrokenError(f"a dump of type {tensor.tensor_type} has no elements to read", kind="dump_type", file=path)
    try:
        # A copy: the caller may read the board's next dump into the same file.
        return np.array(dumps.read_tensor(path, tensor.contract(), finite=False, padded=True).array, order="C")
    except ArtifactError as error:
        raise BrokenError("the board contradicts itself: " + error.message, kind="console", file=path, **error.where) from error


def _byte_size(tensor: TensorInfo) -> int:
    if tensor.byte_size is None and (tensor.dtype is None or not tensor.aligned_shape):
        raise BrokenError("the board does not state how many bytes a tensor has", kind="console", tensor=tensor.name or tensor.index)
    return tensor.contract().padded_bytes
