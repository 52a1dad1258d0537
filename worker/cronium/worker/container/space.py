"""Disk space of the places' files: reserved before it is needed, given back once what lies there is safe elsewhere.

The two flags of Linux's fallocate(2) that Python does not offer. Offsets and sizes of files do not change.
"""

from __future__ import annotations

import ctypes
import os

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.fallocate64.restype = ctypes.c_int


def reserve(descriptor: int, offset: int, length: int) -> None:
    """Have `length` bytes ready behind `offset`, without changing the size. Raises OSError (ENOSPC, EOPNOTSUPP)."""
    _fallocate(descriptor, _KEEP_SIZE, offset, length)


def give_back(descriptor: int, offset: int, length: int) -> None:
    """Make a hole there; it reads as NUL bytes from now on. Raises OSError (EOPNOTSUPP)."""
    _fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    if length > 0 and _libc.fallocate64(descriptor, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
