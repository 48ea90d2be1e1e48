"""Pure functions of tensors as machine code, which a folder keeps for later processes."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

MachineCode = Callable[[list[Tensor]], Sequence[Tensor]]


class CompiledFunction:
    """A pure function of tensors, compiled ahead of time by Inductor.

    The function is traced once. What it reads besides its arguments becomes constant, and arguments
    must keep their shapes, strides and dtypes. The traced operations name the file in the cache, so
    that equal functions share it. On a GPU, where the function becomes a CUDA graph, PyTorch's own
    cache is used instead.

    Args:
        function: f, without side effects. It may call `torch.func`, but no Python code may depend
            on the values of tensors.
        arguments: example arguments, which are not changed.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor]
    ) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # takes half a second

        self._arguments = list(arguments)
        with torch.no_grad():
            trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
            self._graph = trace(*self._arguments)
        self._path = cache_folder() / _digest(self._graph, self._arguments) / "function.so"
        self._on_gpu = self._arguments[0].device.type == "cuda"

    @property
    def is_cached(self) -> bool:
        """Whether `load` need not compile."""
        return self._path.exists()

    def load(self) -> MachineCode:
        """The machine code, as a function of a list of tensors; compiled first unless cached."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._on_gpu:
            graph = torch.compile(
                self._graph, fullgraph=True, dynamic=False, options={"triton.cudagraphs": True}
            )
            self._path.touch()
            return lambda arguments: [each.clone() for each in graph(*arguments)]
        with FileLock(self._path.with_suffix(".lock")):  # one of several workers compiles
            if not self.is_cached:
                self._compile()
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(self._path.resolve()), 1)
        run: MachineCode = runner.run
        return run

    def _compile(self) -> None:
        """Makes a link to the library, which Inductor puts beside what it calls of PyTorch."""
        options = {"aot_inductor.enable_line_tables": False}  # a quarter of the size
        made = torch._inductor.aot_compile(self._graph, tuple(self._arguments), options=options)
        self._path.unlink(missing_ok=True)
        self._path.symlink_to(str(made))


def cache_folder() -> Path:
    """Where compiled functions are kept: in the folder of Inductor's cache."""
    default = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", default)) / "bfc_lightning"


def _digest(graph: torch.fx.GraphModule, arguments: Sequence[Tensor]) -> str:
    """A name for the machine code: operations, constants, arguments, and what compiles them."""
    signatures = [(each.shape, each.stride(), each.dtype, each.device) for each in arguments]
    capabilities = getattr(torch.cpu, "get_capabilities", torch.backends.cpu.get_cpu_capability)
    system = torch.__version__, torch.get_num_threads(), capabilities()
    found = hashlib.blake2b(repr((graph.code, signatures, system)).encode(), digest_size=16)
    for name, constant in sorted(graph.state_dict().items()):
        found.update(repr((name, constant.dtype, constant.tolist())).encode())
    return found.hexdigest()
