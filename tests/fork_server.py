"""Commands without the seconds that importing torch, MLflow, pandas and DVC takes, for tests.

A server imports the libraries once, none of the project, and forks for each ``python -m stages.X``,
``mistakes`` and ``dvc`` that a checkout runs: the same code, arguments, environment, folder, output
and exit status. Kills start Python as users do, and test_repro.py holds a pipeline of plain
processes to the bytes of a forked one.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

LIBRARIES = (
    "torch torchvision mlflow mlflow.tracking pandas pyarrow.parquet scipy.stats sklearn.metrics"
    " sklearn.mixture sklearn.cluster statsmodels.stats.multitest statsmodels.stats.proportion"
    " safetensors.torch pydantic yaml jinja2 matplotlib.figure PIL.Image nflows.flows"
    " torchvision.models.feature_extraction sqlalchemy"
    " dvc.cli dvc.repo dvc.commands.repro dvc.commands.status dvc.commands.experiments.run"
    " dvc.repo.reproduce dvc.repo.experiments dvc.repo.plots dvc.stage.cache dvc.scm"
)
PROGRAMS = ("python", "mistakes", "dvc")
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
stage = sys.argv[1:2] == ["-m"] and sys.argv[2].startswith("stages.")
program = {folder!r} + "/{name}"
# a folder on PYTHONPATH may hold what Python must read as it starts
if "PYTHONPATH" in os.environ or program.endswith("/python") and not stage:
    os.execv(program, [program, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
arguments = sys.argv[2:] if stage else [program, *sys.argv[1:]]
request = json.dumps([os.getcwd(), arguments, dict(os.environ)]).encode()
socket.send_fds(link, [len(request).to_bytes(8, "big")], [0, 1, 2])
link.sendall(request)
child = int.from_bytes(link.recv(8, socket.MSG_WAITALL), "big")
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(child, number))
status = link.recv(8, socket.MSG_WAITALL)
sys.exit(int.from_bytes(status, "big") if status else 1)
"""


@functools.cache
def launcher() -> Path:
    """Return a folder with the commands PROGRAMS, which ask a server that this process starts."""
    folder = Path(tempfile.mkdtemp())
    server = start(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return folder


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start a server, and write its clients to ``folder``; returns when it answers."""
    address, real = str(folder / "server"), str(Path(sys.executable).parent)
    for name in PROGRAMS:
        client = CLIENT.format(python=sys.executable, name=name, folder=real, address=address)
        (folder / name).write_text(client)
        (folder / name).chmod(0o755)
    # in a process of its own, for pytest has threads and modules of the project
    server = subprocess.Popen([sys.executable, __file__, address], cwd=folder)
    while not Path(address).exists():
        assert server.poll() is None, "the server ended"
        time.sleep(0.05)
    return server


def serve(address: str) -> None:
    """Fork for every connection, until killed."""
    for library in LIBRARIES.split():
        importlib.import_module(library)
    assert threading.active_count() == 1, "a fork would lose a thread"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    Path(f"{address}.new").rename(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    while True:
        link, _ = listener.accept()
        if os.fork() == 0:
            answer(link)
        link.close()


def answer(link: socket.socket) -> None:
    """Run what a client asks for in a child, and tell it the child and its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(link, 8, 3)
    request = link.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
    if (child := os.fork()) == 0:
        link.close()
        os._exit(run(*json.loads(request), streams))
    link.sendall(child.to_bytes(8, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        link.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))
    os._exit(0)


def run(folder: str, arguments: list[str], env: dict[str, str], streams: list[int]) -> int:
    """Do what ``python -m ARGUMENTS`` does, or the script that they begin with, and return its exit
    status.
    """
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    program, sys.argv = Path(arguments[0]), arguments
    code: object = 0
    try:
        if program.is_absolute():
            sys.path[0] = str(program.parent)
            runpy.run_path(str(program), run_name="__main__")
        else:
            sys.path[0] = ""  # where a module is looked for first
            runpy.run_module(str(program), run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve(sys.argv[1])
