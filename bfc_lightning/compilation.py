"""Pure functions of tensors as machine code, which a folder keeps for later processes."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

MachineCode = Callable[[list[Tensor]], Sequence[Tensor]]


class CompiledFunction:
    """A pure function of tensors, compiled ahead of time by Inductor.

    The function is traced once. Everything that it reads besides its arguments becomes constant.
    The name of the file in the cache is a digest of the traced operations, so that equal functions
    share it. On a GPU, the function becomes a CUDA graph, and PyTorch's own cache is used instead.

    Args:
        function: f, without side effects. It may call `torch.func`. Its Python code must not depend
            on the values of tensors.
        arguments: example arguments, which are not changed.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], arguments: list[Tensor]
    ) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a while

        self._arguments = arguments  # until they are compiled for
        self._signature = _signature(arguments)
        with torch.no_grad():
            trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
            self._graph = trace(*arguments)
        self._path = cache_folder() / _digest(self._graph, arguments) / "function.so"
        self._code: MachineCode | None = None

    @property
    def is_cached(self) -> bool:
        """Whether `load` need not compile."""
        return self._path.exists()

    def accepts(self, arguments: Sequence[Tensor]) -> bool:
        """Whether arguments have the shapes, strides, dtypes and devices of the example.

        The machine code does not check them.
        """
        return _signature(arguments) == self._signature

    @torch.no_grad()  # as at each call: PyTorch compiles anew for another mode
    def load(self) -> MachineCode:
        """The machine code, as a function of a list of tensors; compiled first unless cached."""
        if self._code is None:
            is_on_gpu = self._arguments[0].device.type == "cuda"
            self._code = self._load_graph() if is_on_gpu else self._load_library()
            self._arguments = []
        return self._code

    def _load_graph(self) -> MachineCode:
        graph = torch.compile(
            self._graph, fullgraph=True, dynamic=False, options={"triton.cudagraphs": True}
        )
        graph(*self._arguments)  # compiles
        if not self.is_cached:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        return lambda arguments: [each.clone() for each in graph(*arguments)]

    def _load_library(self) -> MachineCode:
        if not self.is_cached:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_suffix(".lock")):  # one of several workers compiles
                if not self.is_cached:
                    self._compile()
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(self._path.resolve()), 1)
        run: MachineCode = runner.run
        return run

    def _compile(self) -> None:
        """Compiles the function and makes a link to the library.

        Inductor writes the list of PyTorch's operators that it calls beside the library. Each
        function has a folder, since libraries with different constants may have the same name.
        """
        from torch._inductor import aot_compile

        options = {
            "aot_inductor.output_path": str(self._path.parent),
            "aot_inductor.enable_line_tables": False,  # a quarter of the size
        }
        library = Path(str(aot_compile(self._graph, tuple(self._arguments), options=options)))
        self._path.unlink(missing_ok=True)
        self._path.symlink_to(library.relative_to(self._path.parent))


def cache_folder() -> Path:
    """Where compiled functions are kept: in the folder of Inductor's cache."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()) / "bfc_lightning"


def _signature(arguments: Sequence[Tensor]) -> list[tuple[object, ...]]:
    return [(each.shape, _strides(each), each.dtype, each.device) for each in arguments]


def _strides(tensor: Tensor) -> list[int]:
    """Strides, with 0 where there is a single entry, so that they do not matter."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride if size > 1 else 0 for size, stride in pairs]


def _digest(graph: torch.fx.GraphModule, arguments: Sequence[Tensor]) -> str:
    """A digest of the operations, the constants, the arguments and the system that compiles."""
    code = [part.code for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
    capabilities = getattr(torch.cpu, "get_capabilities", torch.backends.cpu.get_cpu_capability)
    gpus = [torch.cuda.get_device_name(each.device) for each in arguments if each.is_cuda][:1]
    system = torch.__version__, torch.get_num_threads(), capabilities(), gpus
    found = hashlib.blake2b(repr((code, _signature(arguments), system)).encode(), digest_size=16)
    for name, constant in sorted(graph.state_dict().items()):
        found.update(repr((name, constant.dtype, constant.tolist())).encode())
    return found.hexdigest()
