"""A GGUF file in llama.cpp, read as `benchmarks.decode` reads models of onnxruntime.

The library comes with the package ``llama-cpp-python``; ``LLAMA_CPP_LIB_PATH`` names another
folder with a ``libllama``, as that package has it.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class LlamaCpp:
    """A model of llama.cpp."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self._library, self._threads = llama_cpp, threads
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        assert self._model, path

    def reader(self, tokens: int) -> Callable[[Mapping[str, Array]], None]:
        """What reads up to ``tokens`` tokens into a cache of its own, and makes logits of the last
        of them."""
        library = self._library
        settings = library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = tokens
        settings.n_threads = settings.n_threads_batch = self._threads
        context = library.llama_init_from_model(self._model, settings)
        assert context

        def read(feeds: Mapping[str, Array]) -> None:
            ids = feeds["input_ids"][0].astype(np.int32)
            pointer = ids.ctypes.data_as(ctypes.POINTER(library.llama_token))
            failed = library.llama_decode(context, library.llama_batch_get_one(pointer, len(ids)))
            assert not failed, failed

        weakref.finalize(read, library.llama_free, context)
        return read
