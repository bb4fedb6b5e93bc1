"""The watchdog's files of the kernel: read with and without the C core, to the same end."""

import os
import threading

import pytest

from traceloop.core.choose import load_native
from traceloop.recording import kernel_files

NATIVE = load_native()[0]
WAYS = [
    pytest.param(None, id="python"),
    pytest.param(NATIVE, id="c", marks=pytest.mark.skipif(NATIVE is None, reason="the C core was not built")),
]


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    monkeypatch.setattr(kernel_files, "_extension", lambda: request.param)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="without /proc")
def test_a_file_and_the_threads_of_this_process():
    assert kernel_files.read("/proc/self/comm").endswith(b"\n")
    assert len(kernel_files.read("/proc/self/smaps")) <= 4096
    assert set(kernel_files.threads()) == {int(name) for name in os.listdir("/proc/self/task")}
    own = kernel_files.schedule_of_thread(threading.get_native_id())
    assert own.cpu_s > 0.0 and own.slices > 0


def test_what_cannot_be_read(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(10):
        with pytest.raises(FileNotFoundError):
            kernel_files.read(str(tmp_path / "gone"))
        with pytest.raises(IsADirectoryError):
            kernel_files.read(str(tmp_path))
    with pytest.raises((ValueError, TypeError)):
        kernel_files.read("a\0b")
    assert not before or len(os.listdir("/proc/self/fd")) == before
    gone = kernel_files.schedule_of_thread(2**22 + 1)
    assert (gone.cpu_s, gone.waited_s, gone.slices) == (-1.0, -1.0, -1)
