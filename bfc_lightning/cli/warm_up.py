"""A short training in the server from which workers are forked, so that all have filled caches.

What Python and the libraries set up when they first train takes a third of a second.
"""

import contextlib
import gc
import io
import os
import tempfile
import threading
from importlib import import_module

from bfc_lightning.cli import main

_STEPS = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
_PARENT = os.getppid()
_is_warm = threading.Event()


def _end_with_parent() -> None:
    """Ends this process at once if the command that started it has ended."""
    while not _is_warm.wait(0.05):
        if os.getppid() != _PARENT:
            os._exit(0)


watch = threading.Thread(target=_end_with_parent, daemon=True)
watch.start()

gc.disable()
torch = import_module("torch")
import_module("bfc_lightning.cli.evaluate")
gc.freeze()
gc.enable()

threads = torch.get_num_threads()
torch.set_num_threads(1)  # threads of OpenMP would not survive a fork
with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
):
    main([
        *("fit", "-c", "quickstart", *_STEPS, "--run.root", folder),
        *("--run.threads", "1", "--run.figures", "false"),
        *("--trainer.enable_progress_bar", "false"),  # it has a thread of its own
    ])
torch.set_num_threads(threads)
_is_warm.set()
watch.join()  # no other thread may run when a worker is forked
