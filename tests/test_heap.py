"""Freed memory: kept from one hash to the next, and given back after pictures."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc")

PAGES = 46 * 256
"""Of a block as large as that of a hash."""
PROGRAM = """
import resource, sys, threading
from service import heap
import ctypes

if not hasattr(ctypes.CDLL(None), "mallopt"):
    sys.exit(3)
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages are counted one by one
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 46 * 1024 * 1024

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.malloc(2000)  # stays, above it
    libc.free(block)

def times(kept, given_back):
    if kept:
        heap.keep()
    use()
    if given_back:
        heap.give_back()
    before = faults()
    use()
    print(faults() - before)

thread = threading.Thread(target=times, args=({kept}, {given_back}))
thread.start()
thread.join()
"""


def faults(*, kept: bool, given_back: bool) -> int:
    """Pages that a second block took from the kernel."""
    program = PROGRAM.format(kept=kept, given_back=given_back)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 3:
        pytest.skip("another libc than glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_block_serves_again_without_the_kernel() -> None:
    assert faults(kept=False, given_back=False) >= PAGES // 2
    assert faults(kept=True, given_back=False) < PAGES // 10


def test_what_is_free_goes_back_when_that_is_wanted() -> None:
    assert faults(kept=True, given_back=True) >= PAGES // 2
