"""What this machine has: memory to take, arithmetic in half precision, denormal numbers, generators of noise, threads
that idle."""

import ctypes
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""Of processors that multiply matrices of bfloat16."""
PRODUCT, ROUNDS = 512, 7
FASTER = 1.25
"""How many times as fast products must be in bfloat16: a net is more than its products."""
PAUSE = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None) if sys.platform == "linux" else None
SOFT = 1
"""omp_pause_soft of omp.h: what threads have of their own may stay."""


def available_bytes() -> int:
    """What this process can still take without swapping, in bytes: of the machine, within a container's limit."""
    num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):  # only Linux says more
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        num_bytes = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            num_bytes = min(num_bytes, int(Path(path).read_text(encoding="utf-8")))
    return num_bytes


def has_native_bf16(device: torch.device) -> bool:
    """Whether matrices of bfloat16 are multiplied there by instructions of their own, and not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    info = Path("/proc/cpuinfo")
    return info.is_file() and any(flag in info.read_text(encoding="utf-8") for flag in BF16_FLAGS)


@dataclass(frozen=True)
class ProductTimes:
    """Seconds of a product of two matrices of `PRODUCT` rows and columns by one thread, the least of all rounds."""

    float32: float
    bfloat16: float

    @property
    def words(self) -> str:
        float32, bfloat16 = (f"{1000 * seconds:.3g} ms" for seconds in (self.float32, self.bfloat16))
        return f"a product of {PRODUCT} x {PRODUCT} takes {float32} in float32, {bfloat16} in bfloat16"


@cache
def product_times() -> ProductTimes:
    """Timed once a machine, and kept in the user's cache: keys of what is trained depend on what follows from them.

    Where several processes are the first, what one of them has written is what all go by.
    """
    place = _place()
    if (kept := _recall(place)) is not None:
        return kept
    times = _time_products()
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_suffix(f".{os.getpid()}.part")
        scratch.write_text(json.dumps(asdict(times)), encoding="utf-8")
        try:
            os.link(scratch, place)
        except FileExistsError:
            if _recall(place) is None:  # and not what another has just written
                os.replace(scratch, place)
        scratch.unlink(missing_ok=True)
    return _recall(place) or times


def _place() -> Path:
    """Where the times of this processor, under this torch, are kept."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(f"{processor()} {torch.__version__} {PRODUCT}".encode()).hexdigest()[:16]
    return Path(cache_home) / "expost" / f"products-{name}.json"


def _recall(place: Path) -> ProductTimes | None:
    """What is kept there, if it is as it was written."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        float32, bfloat16 = float(kept["float32"]), float(kept["bfloat16"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ProductTimes(float32, bfloat16) if min(float32, bfloat16) > 0 else None


def _time_products() -> ProductTimes:
    """A twentieth of a second. The least of rounds in turn hardly depends on what else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [torch.ones(PRODUCT, PRODUCT, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
        rounds = [[_seconds_of_product(a) for a in pairs] for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return ProductTimes(*(min(seconds) for seconds in zip(*rounds, strict=True)))


def _seconds_of_product(a: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - started


def is_bf16_faster(device: torch.device) -> bool:
    """Whether nets are faster there in bfloat16.

    To have instructions for it is not enough: an Emerald Rapids whose AMX a virtual machine hides multiplies
    bfloat16 by AVX-512 in twice the time of float32.
    """
    if device.type == "cuda" or not has_native_bf16(device):
        return has_native_bf16(device)
    times = product_times()
    return FASTER * times.bfloat16 < times.float32


def processor() -> str:
    """What the processor calls itself; empty where nothing says."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return ""


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the processor and, where `device` is one, of all GPUs.

    `torch.manual_seed` leaves the seed to each kind of accelerator that has not started yet, with a formatted stack
    each: 0.4 ms at the depth of a stage, once an epoch or a block.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within it a processor takes numbers below those that float32 holds in full (1.2e-38) for zero.

    It computes with them a hundred times slower: a product of two matrices of 1024 x 1024, one of which holds nothing
    else, takes 4.6 s instead of 0.02. Trainings make them: gradients of pixels that are all but certain, and Adam's
    averages for weights whose gradient has gone, which shrink by a tenth a step and near the least number that there
    is stay for ever, by rounding. A VAE of sparse images took 2.6 times as long for it.

    It is a setting of a thread, which those that it starts begin with.
    """
    before = _flushes_denormals()
    _flush_denormals(True)
    try:
        yield
    finally:
        _flush_denormals(before)


def _flush_denormals(flush: bool) -> None:
    torch.set_flush_denormal(flush)  # False: this processor cannot
    end_idle_threads()  # new ones begin with it


def _flushes_denormals() -> bool:
    return (torch.full((1,), 1e-39, dtype=torch.float32, device="cpu") * 0.5).item() == 0


def end_idle_threads() -> None:
    """End the OpenMP threads that idle for the calling thread, which gets new ones when it computes again.

    Each thread that computes has a team of its own. Where all teams together have more threads than there are
    processors, GNU's OpenMP, which torch for Linux carries, lets none of them wait awake for more than a moment: a step
    of a small net takes 1.4 times as long. Elsewhere than on Linux nothing is ended, and another OpenMP may only let
    them sleep.
    """
    if PAUSE is not None:
        PAUSE(SOFT)


if hasattr(os, "register_at_fork"):  # a child has no threads, and would wait for those of its parent for ever
    os.register_at_fork(before=end_idle_threads)
