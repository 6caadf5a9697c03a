"""The device that a run would use, and its memory."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


@dataclass(frozen=True, kw_only=True)
class Device:
    """`kind`: cpu or cuda. `total`, `free`: bytes of memory; of a CPU, at most what the container may use. `threads`: torch's."""

    kind: str
    name: str
    total: int
    free: int
    threads: int

    @property
    def place(self) -> dict[str, str]:
        """What measured rates hold for."""
        return {"device": self.name, "threads": str(self.threads)}


def device_at_hand() -> Device:
    """The first GPU, or the CPU, as in `model/policy.py`."""
    import torch

    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Device(kind="cuda", name=torch.cuda.get_device_name(), total=total, free=free, threads=threads)
    memory, allowed = psutil.virtual_memory(), allowed_bytes(LIMITS)
    total = min(memory.total, allowed or memory.total)
    return Device(kind="cpu", name=cpu_name(), total=total, free=min(memory.available, total), threads=threads)


def allowed_bytes(files: Iterable[Path]) -> int | None:
    """The memory limit of the container, from the first file that states one; None: there is no limit."""
    for file in files:
        if file.is_file() and (text := file.read_text(encoding="utf-8").strip()).isdigit():
            return int(text)
    return None


def cpu_name() -> str:
    """The processor as Linux names it, elsewhere as Python does."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
