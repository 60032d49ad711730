"""A GPU for machines that have none: tensors that say they lie on cuda:0, and compute on the CPU.

    with emulated_gpu() as gpu:
        pool = Pool.from_arrays(**data, device="cuda:0")    # everything that runs now runs by the rules of a GPU
    gpu.waits                                               # line of code -> how often it waited for the GPU

What it shows: operands on two devices, generators of the wrong device, what a CUDA graph must not record, state of a
recorded step outside `state` or in Python, operations whose floats on a GPU depend on luck, waits for the GPU.
What it cannot show: speed, memory, the rounding of real kernels, the autograd engine, races of streams, and the real
`allround.kernels.repeat._capture`, which it replaces. A rule that is missing here is a rule that nobody tests.

It undoes all it changes but one thing, which torch's own FakeTensorMode leaves behind as well: where there is no GPU,
the guard that switches between GPUs does nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from allround.kernels import repeat

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
SWITCHES = ("_ensureCUDADeviceGuardSet", "_only_lift_cpu_tensors", "_set_only_lift_cpu_tensors")  # of torch._C
DRIVER = {"_lazy_init": lambda: None, "device": nullcontext, "mem_get_info": lambda *_: (70 << 30, 80 << 30)}
DRIVER |= {"memory_reserved": lambda *_: 0, "memory_allocated": lambda *_: 0}  # of torch.cuda
TORCH = str(Path(torch.__file__).parent)

# Operations whose result, or its shape, the host has to know; index by a mask is one too.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "isin", "repeat_interleave"}
WAITS |= {"unique_dim", "_unique", "_unique2", "unique_consecutive", "_linalg_eigh", "linalg_eig", "linalg_lstsq"}
INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}  # take indices from the host too, and copy them
ATOMIC = {"index_add", "scatter_add", "scatter_reduce", "index_reduce", "histc"}  # float sums in order of arrival
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"}
SHORT = (torch.float16, torch.bfloat16)


class Refused(Exception):
    """A GPU would stop here, give numbers that differ from run to run, or round to 16 bits."""


class OnGpu(torch.Tensor):
    """A tensor without data of its own; `inner` has them, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        how = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device=GPU, **how)
        tensor.inner = inner
        return tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> None:
        raise Refused(f"{func}: a tensor of the emulated GPU has outlived it")


class Graph:
    """A recorded step: the same kernels on the same memory every time, whatever the Python code would do by now."""

    def __init__(self) -> None:
        self.kernels: list[tuple] = []

    def record(self, kernel: Callable, args: tuple, kwargs: dict, out: Any, changes: bool) -> None:
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        fresh = [isinstance(leaf, torch.Tensor) and _memory(leaf) not in given for leaf in tree_leaves(out)]
        if changes or any(fresh):  # else a view, which stays one
            args, kwargs, out = tree_map(_alias, (args, kwargs, tree_leaves(out)))
            self.kernels.append((kernel, args, kwargs, out, fresh))

    def replay(self) -> None:
        with _disable_current_modes():
            for kernel, args, kwargs, out, fresh in self.kernels:
                for old, new, mine in zip(out, tree_leaves(kernel(*args, **kwargs)), fresh, strict=True):
                    if mine:
                        old.copy_(new)


class EmulatedGpu(TorchDispatchMode):
    """Sees every operation of torch while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.graph: Graph | None = None  # that records now

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        here = any(isinstance(leaf, OnGpu) for leaf in leaves)
        target = torch.device(kwargs.get("device") or (GPU if here else CPU))
        if not here and target.type == "cpu":
            return func(*args, **kwargs)
        source = args[1] if name == "copy_" else args[0] if name == "_to_copy" else None
        onto = isinstance(args[0], OnGpu) if name == "copy_" else target.type == "cuda"
        if source is not None and isinstance(source, OnGpu) != onto:
            self.wait("a copy between host and GPU")
        else:
            self._check(name, args, kwargs, leaves)
        if "device" in kwargs:
            kwargs["device"] = CPU
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        kernel = _wide_product if name == "mm" and func._overloadname == "dtype" else func
        out = kernel(*inner_args, **inner_kwargs)
        if name in PRODUCTS and out.dtype in SHORT:
            raise Refused(f"{name} to {out.dtype} at {_place()}: keep the sums in float32")
        if self.graph is not None and torch.Tag.inplace_view not in func.tags:
            self.graph.record(kernel, inner_args, inner_kwargs, out, func._schema.is_mutable)
        if name == "copy_" or target.type == "cpu":
            return args[0] if name == "copy_" else out
        known = {id(leaf.inner): leaf for leaf in leaves if isinstance(leaf, OnGpu)}  # one that changed stays who it is
        return tree_map(lambda leaf: known[id(leaf)] if id(leaf) in known else _outer(leaf), out)

    def _check(self, name: str, args: tuple, kwargs: dict, leaves: list) -> None:
        for leaf in leaves:
            if isinstance(leaf, torch.Generator) and leaf.device.type == "cpu":
                raise Refused(f"{name} on the GPU with a generator of the CPU at {_place()}")
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnGpu):
                if leaf.dim() and name not in INDEX:
                    raise Refused(f"{name} of tensors on GPU and CPU at {_place()}")
                if name in INDEX or name == "where":
                    self.wait("a copy from the host")
        if name in WAITS:
            self.wait(name)
        if name in INDEX and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
            self.wait("index by a mask")
        floats = isinstance(args[0], torch.Tensor) and args[0].is_floating_point()
        adds = name.rstrip("_") in ATOMIC and not {"amax", "amin"} & set(args[4:])
        adds |= name in INDEX - {"index"} and (kwargs.get("accumulate") or args[3:4] == (True,))
        if floats and (adds or (name == "cumsum" and args[0].numel() == args[0].shape[args[1]])):
            raise Refused(f"{name} of floats at {_place()}: its last bits differ from run to run")

    def wait(self, what: str) -> None:
        if self.graph is not None:
            raise Refused(f"{what} in a step that a CUDA graph records at {_place()}")
        self.waits[_place()] += 1

    def capture(self, step: Callable[[], None], state: Sequence[torch.Tensor]) -> Graph:
        """As repeat._capture: warm up, undo, record. Recording runs the step here, and so is undone as well."""
        before = [tensor.clone() for tensor in state]
        for _ in range(3):
            step()
        self.graph = graph = Graph()
        try:
            step()
        finally:
            self.graph = None
        for tensor, saved in zip(state, before, strict=True):
            tensor.copy_(saved)
        return graph


@contextmanager
def emulated_gpu() -> Iterator[EmulatedGpu]:
    lift, gpu = torch._C._only_lift_cpu_tensors(), EmulatedGpu()
    torch._C._ensureCUDADeviceGuardSet()
    with pytest.MonkeyPatch.context() as patch:
        for name, instead in (*DRIVER.items(), ("synchronize", lambda *_: gpu.wait("synchronize"))):
            patch.setattr(torch.cuda, name, instead)
        patch.setattr(repeat, "_capture", gpu.capture)
        try:
            torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") passes through here too
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(lift)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnGpu) else leaf


def _outer(leaf: Any) -> Any:
    return OnGpu(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _alias(leaf: Any) -> Any:
    """The same memory under the shape it has now, whatever squeeze_() does to the tensor later."""
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _wide_product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """mm of 16-bit factors with float32 sums, which the CPU has not."""
    return left.to(dtype) @ right.to(dtype)


def _place() -> str:
    """The line of code, of neither torch nor this file, that runs."""
    frame = sys._getframe()
    while frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
