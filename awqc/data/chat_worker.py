"""Render chats in a process of its own: ``python -m awqc.data.chat_worker``, started by `chat`.

A chat template is a program out of the model's folder. jinja's sandbox keeps it from all but
computing; here is a bound on that: the system ends the process that takes more time or memory.
A job is one JSON object on stdin, the answer one on stdout.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows: only the starter's clock bounds the work
    resource = None  # type: ignore[assignment]  # a module has no other type

STATUS = Path("/proc/self/statm")


def limit(seconds: int, memory: int) -> None:
    """Let this process take ``seconds`` more of a processor, and ``memory`` more bytes."""
    if resource is None:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until, until))
    if STATUS.is_file():
        held = int(STATUS.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))


def render(job: dict[str, Any]) -> dict[str, Any]:
    """The texts of ``job["chats"]``, or the first error and the number of the chat it is in."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()),
        chat_template=job["template"],
        **job["special_tokens"],
    )
    limit(job["seconds"], job["memory"])
    texts: list[str] = []
    size = 0
    for index, messages in enumerate(job["chats"]):
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=job["answering"]
            )
            texts.append(str(text))
        except MemoryError:
            return {"too_large": index}
        except Exception as error:  # noqa: BLE001 - a template is a program: any error
            return {"error": f"{type(error).__name__}: {error}"[:1000], "chat": index}
        size += len(texts[-1])
        if size > job["characters"]:
            return {"too_large": index}
    return {"texts": texts}


def main() -> None:
    """Answer one job."""
    answers, sys.stdout = sys.stdout, sys.stderr
    answer = render(json.load(sys.stdin))
    answers.write(json.dumps(answer))
    answers.flush()


if __name__ == "__main__":
    main()
