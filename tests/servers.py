"""The servers that tests start, all on 127.0.0.1 and on free ports; and a cable that can be cut."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from commands import ROOT

PATH = os.pathsep.join(
    [
        str(Path(sys.executable).parent),
        os.environ["PATH"],
        "/usr/sbin",
        *map(str, Path("/usr/lib/postgresql").glob("*/bin")),
    ]
)


def need(*programs: str) -> None:
    """Skip the test, and say why, where a program or a Python package is not installed."""
    import importlib.util

    for name in programs:
        found = shutil.which(name, path=PATH) if "_" not in name else importlib.util.find_spec(name)
        if not found:
            pytest.skip(f"{name} is not installed (tests/servers.sh installs it where it can)")


def free_ports(count: int) -> int:
    """Return the first of ``count`` ports in a row that nothing listens on now."""
    for first in range(20_000 + os.getpid() % 10_000, 45_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
        return first
    raise OSError("no free ports")


def until(condition, what: str, seconds: float = 120) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def process(*command: str, log: Path, **settings) -> Iterator[subprocess.Popen]:
    """Run a server in a process group of its own; the whole group ends with the block."""
    with log.open("wb") as file:
        running = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, **settings
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            running.wait(60)
        with suppress(ProcessLookupError):  # what the server left behind would hold its ports
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


class Team:
    """The servers of server/start.sh, with the passwords that server/env.sh made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        printed = subprocess.run(
            ["bash", ROOT / "server/env.sh"], capture_output=True, text=True, check=True
        ).stdout
        first = free_ports(12)
        ports = {
            "MLFLOW_PORT=5000": first,
            "POSTGRES_PORT=5442": first + 1,
            "S3_PORT=8333": first + 2,
        }
        for default, port in ports.items():
            assert default in printed
            printed = printed.replace(default, f"{default.partition('=')[0]}={port}")
        with os.fdopen(os.open(folder / "env", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(printed)
        lines = (line.partition("=") for line in printed.splitlines() if not line.startswith("#"))
        self.settings = {key: value for key, _, value in lines}
        self.mlflow = f"http://127.0.0.1:{self.settings['MLFLOW_PORT']}"
        self.s3 = f"http://127.0.0.1:{self.settings['S3_PORT']}"
        self.bucket_keys = {
            key: value for key, value in self.settings.items() if key.startswith("AWS_")
        }
        self.account = {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": self.settings["MLFLOW_AUTH_ADMIN_USERNAME"],
            "MLFLOW_TRACKING_PASSWORD": self.settings["MLFLOW_AUTH_ADMIN_PASSWORD"],
        }

    @contextmanager
    def running(self) -> Iterator["Team"]:
        """Run server/start.sh, from `ready` on."""
        log = self.folder / "log"
        ports = [int(self.settings[key]) for key in ("MLFLOW_PORT", "POSTGRES_PORT", "S3_PORT")]
        until(
            lambda: not any(listens(port + more) for port in ports for more in range(10)),
            "the ports to be free",
        )
        command = [
            "bash",
            str(ROOT / "server/start.sh"),
            str(self.folder / "state"),
            str(self.folder / "env"),
        ]
        with process(*command, log=log, env=os.environ | {"PATH": PATH}) as running:
            until(
                lambda: log.read_text().startswith("ready") or running.poll() is not None,
                "server/start.sh",
            )
            assert running.poll() is None, "".join(
                file.read_text(errors="replace")[-2000:]
                for file in [log, *(self.folder / "state").glob("*.log")]
            )
            yield self

    def secrets(self) -> set[str]:
        return {
            value for key, value in self.settings.items() if "PASSWORD" in key or "SECRET" in key
        }


@contextmanager
def team_servers() -> Iterator[Team]:
    """Servers with a state of their own; PostgreSQL's user must reach it, which pytest's folders do
    not allow.
    """
    need("initdb", "weed", "mlflow", "flask_wtf", "psycopg_binary")
    folder = Path(tempfile.mkdtemp(prefix="mistakes-servers-"))
    folder.chmod(0o755)
    try:
        yield Team(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def bucket(folder: Path) -> Iterator[Team]:
    """SeaweedFS alone, as server/start.sh starts it."""
    need("weed", "dvc_s3")
    team, folder = Team(folder), folder / "seaweedfs"
    folder.mkdir()
    script = (ROOT / "server/start.sh").read_text()
    command = script[script.index("p=$S3_PORT") : script.index(' > "$state/seaweedfs.log"')]
    command = command.replace("weed mini", "exec weed mini")
    env = {"PATH": PATH, "HOME": str(folder), "state": str(folder.parent)} | team.settings
    log = team.folder / "weed.log"
    with process("bash", "-c", command, log=log, env=env) as running:
        until(
            lambda: "components are running" in log.read_text() or running.poll() is not None,
            "weed",
        )
        assert running.poll() is None, log.read_text()
        yield team


@contextmanager
def ssh(folder: Path) -> Iterator[tuple[int, Path]]:
    """OpenSSH for the user who runs the tests, with one key; yields its port and the key's file."""
    need("sshd", "ssh-keygen", "dvc_ssh")
    folder.mkdir()
    port = free_ports(1)
    for name in ("host", "id", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    shutil.copy(folder / "id.pub", folder / "authorized")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    sshd = str(shutil.which("sshd", path=PATH))
    with process(sshd, "-D", "-e", "-f", str(folder / "config"), log=folder / "log"):
        until(lambda: listens(port), "sshd")
        yield port, folder / "id"


class Cable:
    """A relay to a port of this machine that breaks after ``limit`` bytes, both ways together,
    until it is mended.
    """

    def __init__(self, port: int) -> None:
        self.to, self.limit, self.sent = port, -1, 0
        self.silent = False  # takes connections and answers nothing, as a server that hangs
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, limit: int) -> None:
        self.sent, self.limit = 0, limit

    def mend(self) -> None:
        self.limit = -1

    @property
    def broken(self) -> bool:
        return 0 <= self.limit <= self.sent

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        self._break()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.broken:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.to))
            for one in (near, far):
                one.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
                )  # SFTP asks in small words and waits
            with self._lock:
                self._open += [near, far]
            threading.Thread(target=self._copy, args=(near, far), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(16384):
                if self.silent:
                    continue
                with self._lock:
                    self.sent += len(data)
                if self.broken:
                    self._break()
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _break(self) -> None:
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()
