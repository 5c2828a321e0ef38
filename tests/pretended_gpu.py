"""A GPU that is pretended: importing this gives torch's CPU build one device named cuda.

A tensor there is a host tensor in disguise. Every operation on it is done on the host, and refused
where a GPU would refuse it: host and device in one operation, NumPy of a device tensor. A copy to
the host that does not wait holds rubbish until its event was waited for. So code that names devices
is tested for all but the device: its speed, its memory, its kernels' rounding, torch.compile.

Import it before torch, in a process of its own: nothing of it can be taken back.
"""

import ctypes
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
TORCH = Path(sysconfig.get_paths()["purelib"]) / "torch"


def build(directory: Path) -> Path:
    """The C++ part as a library; needs g++, takes seconds."""
    library = directory / "pretended_gpu.so"
    argv = ["g++", "-std=c++20", "-shared", "-fPIC", str(HERE / "pretended_gpu.cpp")]
    argv += [f"-I{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib"]
    argv += ["-lc10", "-ltorch_cpu", "-o", str(library)]
    subprocess.run(argv, check=True)
    return library


def install(library: Path) -> None:
    """Load the C++ part, then send what reaches a device named cuda to the host."""
    ctypes.CDLL(str(library))
    import torch
    from torch.utils._mode_utils import no_dispatch
    from torch.utils._pytree import tree_leaves, tree_map

    aten = torch.ops.aten
    moves = {aten.copy_.default, aten._to_copy.default}
    indexing = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put_.default}
    indexing |= {aten.index_put.default, aten._index_put_impl_.default}
    wide = {aten.mm.dtype_out, aten.addmm.dtype_out}  # kernels that the host has not
    under_way: list[tuple[torch.Tensor, torch.Tensor]] = []  # copies to the host, and their source

    class OnGPU(torch.Tensor):
        """A host tensor that says it is on the GPU."""

        on_host: torch.Tensor

        @staticmethod
        def __new__(cls: type["OnGPU"], on_host: torch.Tensor) -> "OnGPU":
            made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                on_host.shape,
                strides=on_host.stride(),
                storage_offset=on_host.storage_offset(),
                dtype=on_host.dtype,
                device=torch.device("cuda", 0),
            )
            made.on_host = on_host
            return made

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            return done(func, *args, **(kwargs or {}))

        # What asks for memory or for numbers does so outside of operations.
        def untyped_storage(self) -> Any:
            return self.on_host.untyped_storage()

        def storage(self) -> Any:
            return self.on_host.storage()

        def data_ptr(self) -> int:
            return self.on_host.data_ptr()

        def tolist(self) -> Any:
            return self.on_host.tolist()

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            made: Any = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made
            return made

    def done(func: Any, *args: Any, **kwargs: Any) -> Any:
        """An operation, where all its tensors are."""
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if isinstance(t, OnGPU)]
        here = [t for t in tensors if not isinstance(t, OnGPU) and t.dim()]
        indexed = func in indexing and isinstance(args[0], OnGPU)  # by the host's indices: allowed
        if there and here and func not in moves and not indexed:
            raise RuntimeError(f"{func}: all tensors must be on one device, found cuda:0 and cpu")
        if func is aten._fused_sdp_choice.default:
            return 0  # plain attention: the fused kernels of GPUs are not here
        if func in wide:
            *terms, a, b, dtype = (getattr(value, "on_host", value) for value in args)
            wide_product = a.to(dtype) @ b.to(dtype)
            kwargs["out"].on_host.copy_(sum(terms, wide_product))
            return kwargs["out"]
        to = kwargs.get("device")
        on_gpu = bool(there) if to is None else torch.device(to).type == "cuda"
        if func is aten.copy_.default:
            on_gpu = isinstance(args[0], OnGPU)
            if args[2:] == (True,) and not on_gpu:
                under_way.append((args[0], args[1].on_host.clone()))
                return args[0].fill_(-1)
        plain = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        if to is not None:
            plain["device"] = "cpu"
        inner, plain = tree_map(lambda t: getattr(t, "on_host", t), (args, plain))
        found = func(*inner, **plain)
        same = {id(t.on_host): t for t in there}
        if torch.Tag.inplace_view in func.tags:  # changes what the disguise says of itself, too
            with no_dispatch():
                func(*args, **kwargs)
        for tensor in there:
            assert tensor.shape == tensor.on_host.shape, f"{func} has resized its output"

        def disguised(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or not on_gpu:
                return value
            return same[id(value)] if id(value) in same else OnGPU(value)

        return tree_map(disguised, found)

    class Event:
        """What it waits for is what was under way when it was recorded."""

        def record(self) -> None:
            self.copies = list(under_way)
            under_way.clear()

        def synchronize(self) -> None:
            for target, source in self.copies:
                target.copy_(source)

    anything = torch.library.Library("_", "IMPL")
    anything.fallback(lambda func, *args, **kwargs: done(func, *args, **kwargs), "CUDA")
    makers = torch.library.Library("aten", "IMPL")
    for name in ("arange", "arange.start", "arange.start_step"):  # else resized after their making
        overload: Any = getattr(aten.arange, name.partition(".")[2] or "default")
        makers.impl(name, lambda *a, op=overload, **k: done(op, *a, **k), "CUDA")
    kept.extend([anything, makers])

    properties = SimpleNamespace(total_memory=2**36, name="pretended")
    for name, answer in {
        "_lazy_init": None,
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "synchronize": None,
        "memory_allocated": 0,
        "max_memory_allocated": 2**20,
        "reset_peak_memory_stats": None,
        "get_device_properties": properties,
    }.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    torch.cuda.Event = Event  # type: ignore[misc,assignment]
    torch.compile = lambda model=None, **kwargs: model  # type: ignore[assignment]
    torch.__future__.set_swap_module_params_on_conversion(True)


kept: list[Any] = []  # a library that is collected takes its kernels back
