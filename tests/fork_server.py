"""Run by path, as a process of its own: forks processes that have imported awqc already.

A line of JSON on standard input asks for one: ``code`` and ``arguments`` as of ``python -c``, the
folder ``cwd``, the whole environment ``env``, files for ``stdout`` and ``stderr``, names of the
signals to ``ignore``, and ``file_size``, the most bytes that a file may have. It answers the
process's number when that runs and its exit code when it has ended.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import sys
from typing import Any

import torch
import torch._dynamo

from awqc.export import onnx_translator
from awqc.export.onnx_codes import MIN_OPSET

NOBODY = "nobody"
"""Names an output whose reader has gone, like ``| true`` when ``true`` has ended."""


SECONDS = 300


def become(job: dict[str, Any]) -> None:
    """Take on streams, folder, environment, signals and limits of the process asked for."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, job["stdout"]), (2, job["stderr"])):
        if name == NOBODY:
            reader, writer = os.pipe()
            os.close(reader)
        else:
            writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(writer, number)
        os.close(writer)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        handler = signal.SIG_IGN if name in job["ignore"] else default
        signal.signal(getattr(signal, name), handler)
    if job["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.path[0] = ""
    sys.argv = ["-c", *job["arguments"]]


def serve() -> dict[str, Any]:
    """Fork a process for each job; in that process, and only there, return the job."""
    answers = os.dup(1)
    for line in iter(sys.stdin.readline, ""):
        job: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            become(job)
            return job
        os.write(answers, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    sys.exit()


def run(code: str) -> int:
    """Run ``code`` as a program; returns its exit code.

    What libraries do at the very end of a process may wait for threads that no fork takes along:
    the caller ends the process at once.
    """
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    onnx_translator._functions(MIN_OPSET)  # made once for all processes
    job = serve()
    signal.alarm(SECONDS)  # whoever hangs is ended
    os._exit(run(job["code"]))
