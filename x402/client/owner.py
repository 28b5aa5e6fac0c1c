"""Who is working on a payment right now: a logical call of a process that is still there.

A payment that nobody works on any more (its call ended, its process died) may be taken up by the next call for the
same request; one that is being worked on belongs to another call, however equal the two requests look.
"""

from __future__ import annotations

import os
import weakref
from functools import lru_cache
from itertools import count

_PID_DIGITS = 10


class Call:
    """One logical call, which goes on for as long as somebody holds this object.

    `engaged` says that it owns, or has owned, a payment in a journal.
    """

    __slots__ = ("__weakref__", "engaged", "owner")

    def __init__(self) -> None:
        self.owner = f"{_here(os.getpid())}/{next(_numbers)}"
        self.engaged = False
        _live[self.owner] = self


_numbers = count(1)
_live: weakref.WeakValueDictionary[str, Call] = weakref.WeakValueDictionary()


def is_live(owner: str) -> bool:
    """Whether the call of this name goes on: in this process by its object, in another one by the process."""
    process = owner.partition("/")[0]
    if process == _here(os.getpid()):
        return owner in _live
    return _is_running(process)


@lru_cache(maxsize=2)
def _here(pid: int) -> str:
    """This process, told from every other one that had or will have the same number."""
    return _identify(pid)


def _identify(pid: int) -> str:
    return f"{pid}.{_started(pid)}"


def _started(pid: int) -> str:
    """When a process began, as the kernel counts it; `""` where the kernel does not say (anything but Linux)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as status:
            return status.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_running(process: str) -> bool:
    number = process.partition(".")[0]
    if not (number.isascii() and number.isdecimal() and len(number) <= _PID_DIGITS):
        return False
    pid = int(number)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # It is there and belongs to somebody else.
    return _identify(pid) == process
