"""Shared DVC remotes on real servers: a folder, OpenSSH, an S3 server (SeaweedFS); and what goes
wrong with them.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import servers
import yaml
from checkouts import Checkout, duplicate
from commands import ROOT

KINDS = ("folder", "ssh", "s3")


@dataclass
class Remote:
    """What a team writes down in .dvc/config, and what each member keeps in .dvc/config.local."""

    name: str
    url: str
    settings: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(
        default_factory=dict
    )  # local settings of somebody who has no access

    def add(self, checkout: Checkout) -> None:
        checkout.run("dvc", "remote", "add", "--force", self.name, self.url)
        for key, value in self.settings.items():
            checkout.run("dvc", "remote", "modify", self.name, key, value)

    def allow(self, checkout: Checkout, **instead: str) -> None:
        for key, value in (self.local | instead).items():
            checkout.run("dvc", "remote", "modify", "--local", self.name, key, value)

    @property
    def port(self) -> int | None:
        return urlsplit(self.settings.get("endpointurl", self.url)).port

    def through(self, port: int) -> "Remote":
        """The same remote at another port."""
        settings = {
            key: value.replace(f":{self.port}", f":{port}") for key, value in self.settings.items()
        }
        return replace(self, url=self.url.replace(f":{self.port}/", f":{port}/"), settings=settings)


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[Remote]:
    """Start the server of a remote."""
    if kind == "folder":
        yield Remote(kind, str(folder / "store"))
    elif kind == "ssh":
        with servers.ssh(folder / "ssh") as (port, key):
            user = subprocess.run(
                ["id", "-un"], capture_output=True, text=True, check=True
            ).stdout.strip()
            url = f"ssh://{user}@127.0.0.1:{port}{folder}/store"
            yield Remote(
                kind, url, {}, {"keyfile": str(key)}, {"keyfile": str(key.with_name("stranger"))}
            )
    else:
        with servers.bucket(folder) as team:
            keys = {
                key.removeprefix("AWS_").lower(): value for key, value in team.bucket_keys.items()
            }
            settings = {"endpointurl": team.s3, "region": "us-east-1"}
            yield Remote(
                kind, "s3://dvc/mistakes", settings, keys, keys | {"secret_access_key": "wrong"}
            )


@pytest.fixture(scope="module")
def remotes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Remote | str]]:
    """The remote of each kind, or why there is none."""
    found: dict[str, Remote | str] = {}
    with ExitStack() as stack:
        for kind in KINDS:
            try:
                found[kind] = stack.enter_context(opened(kind, tmp_path_factory.mktemp(kind)))
            except pytest.skip.Exception as reason:
                found[kind] = str(reason)
        yield found


@pytest.fixture(params=KINDS)
def remote(request: pytest.FixtureRequest, remotes: dict[str, Remote | str]) -> Remote:
    one = remotes[request.param]
    if isinstance(one, str):
        pytest.skip(one)
    return one


@pytest.fixture(scope="module")
def anna(
    reproduced: Checkout, remotes: dict[str, Remote | str], tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """A checkout with all results and two experiments that ran in DVC's queue; its origin is a bare
    repository.
    """
    folder = tmp_path_factory.mktemp("team")
    checkout = duplicate(reproduced, folder / "anna", "mlflow.db", "mlartifacts")
    for one in remotes.values():
        if isinstance(one, Remote):
            one.add(checkout)
            one.allow(checkout)
    checkout.run("git", "commit", "--quiet", "--all", "--message=remotes")
    checkout.run(
        "git", "clone", "--quiet", "--bare", str(checkout.folder), str(folder / "origin.git")
    )
    checkout.run("git", "remote", "add", "origin", str(folder / "origin.git"))
    checkout.run("dvc", "exp", "run", "--queue", "-S", "detection.alpha=0.01,0.1")
    checkout.run("dvc", "queue", "start", "--jobs", "2", capture_output=False)
    status = ""

    def done() -> bool:
        nonlocal status
        status = checkout.run("dvc", "queue", "status").stdout
        return "Queued" not in status and "Running" not in status

    servers.until(done, "the queue", 600)
    checkout.run("dvc", "queue", "stop")
    assert status.count("Success") == 2, status
    return checkout


def experiments(checkout: Checkout) -> dict[str, str]:
    lines = checkout.run(
        "git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps/"
    ).stdout.splitlines()
    refs = (line.split() for line in lines)
    return {
        ref.rsplit("/", 1)[1]: rev
        for rev, ref in refs
        if re.fullmatch(r"refs/exps/\w\w/\w{38}/[\w-]+", ref)
    }


def fresh(anna: Checkout, folder: Path) -> Checkout:
    anna.run("git", "clone", "--quiet", str(anna.folder.parent / "origin.git"), str(folder))
    return Checkout(folder)


def damaged(checkout: Checkout) -> list[str]:
    """Return the files of DVC's cache whose content is not what their name says."""
    files = [
        file for file in (checkout.folder / ".dvc/cache/files/md5").rglob("*") if file.is_file()
    ]
    md5 = {file: hashlib.md5(file.read_bytes()).hexdigest() for file in files}
    return [
        str(file)
        for file in files
        if file.parent.name + file.name.removesuffix(".dir") != md5[file]
    ]


def failed(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """DVC failed with a line that names the reason, without a traceback."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    first, *_ = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert any(word in done.stderr for word in words), done.stderr
    assert len(first) < 400


@pytest.mark.slow
def test_a_colleague_has_results_and_experiments_and_computes_nothing(
    anna: Checkout, remote: Remote, tmp_path: Path
) -> None:
    at = ("--remote", remote.name)
    anna.run("dvc", "push", *at)
    shared = experiments(anna)
    assert len(shared) == 2
    anna.run("dvc", "exp", "push", *at, "origin", *shared)
    chosen = sorted(shared)[
        len(remote.name) % 2
    ]  # each of the two comes through one remote at least

    bert = fresh(anna, tmp_path / "bert")
    remote.allow(bert)
    bert.run("dvc", "pull", *at)
    bert.run("dvc", "exp", "pull", *at, "origin", chosen)
    alphas = []
    for revision in ("HEAD", shared[chosen]):
        if revision != "HEAD":
            bert.run("dvc", "exp", "apply", chosen)
        done = bert.run("dvc", "repro")
        assert "Running stage" not in done.stdout
        assert "Data and pipelines are up to date." in done.stdout
        metrics = "data/detection/smoke/metrics.json"
        assert (bert.folder / metrics).read_text() == anna.run(
            "git", "show", f"{revision}:{metrics}"
        ).stdout
        alphas.append(
            yaml.safe_load((bert.folder / "params.yaml").read_text())["detection"]["alpha"]
        )
    assert alphas[0] == 0.05
    assert alphas[1] in {0.01, 0.1}
    assert not (bert.folder / "mlflow.db").exists()


@pytest.mark.slow
def test_credentials_are_in_no_commit(anna: Checkout, remote: Remote) -> None:
    history = anna.run("git", "log", "--all", "--patch", "--format=%H").stdout
    assert remote.url in history  # what is looked through is the history that the remote is in
    for secret in remote.local.values():
        assert len(secret) < 8 or secret not in history  # the key's name, team, is no secret
    anna.run("git", "check-ignore", ".dvc/config.local")


@pytest.mark.slow
def test_no_access_and_a_wrong_place_are_told_and_leave_the_cache_whole(
    anna: Checkout, remote: Remote, tmp_path: Path
) -> None:
    carl = duplicate(anna, tmp_path / "carl", "mlflow.db", "mlartifacts")
    push = ("dvc", "push", "--remote", remote.name)
    (tmp_path / "file").write_text("")
    nobody = servers.free_ports(1)
    absent = {"s3": "s3://absent/mistakes", "ssh": f"ssh://nobody@127.0.0.1:{nobody}/store"}
    replace(remote, url=absent.get(remote.name, f"{tmp_path}/file/store")).add(carl)
    failed(carl.run(*push, check=False), "bucket", "onnect", "Not a directory")

    closed: tuple[str, ...] = ()
    if remote.name == "folder":
        (tmp_path / "store").mkdir(mode=0o555)
        remote = replace(remote, url=str(tmp_path / "store"))
        if os.geteuid() == 0:
            closed = (
                "setpriv",
                "--bounding-set=-dac_override",
                "--",
            )  # root may write everywhere, but for this
    remote.add(carl)
    remote.allow(carl, **remote.wrong)
    # a forked command would have the privileges of its server
    done = carl.run(*closed, *push, check=False, PATH=carl.plain_path)
    failed(done, "Forbidden", "ermission denied")
    assert not damaged(carl)

    if remote.name == "folder":
        (tmp_path / "store").chmod(0o755)
    remote.allow(carl)
    carl.run(*push)
    assert "in sync" in carl.run("dvc", "status", "--cloud", "--remote", remote.name).stdout


@pytest.mark.slow
def test_a_server_that_goes_half_way_costs_a_retry(
    anna: Checkout, remote: Remote, tmp_path: Path
) -> None:
    if remote.port is None:
        pytest.skip("a folder has no server; tests/pipeline/test_faults.py fills its disk")
    carl = duplicate(anna, tmp_path / "carl", "mlflow.db", "mlartifacts")
    cable = servers.Cable(remote.port)
    remote = replace(remote.through(cable.port), url=remote.through(cable.port).url + "/half")
    at = ("--remote", remote.name)
    remote.add(carl)
    carl.run("git", "commit", "--quiet", "--all", "--message=cable")
    size = sum(
        file.stat().st_size
        for file in (carl.folder / ".dvc/cache/files").rglob("*")
        if file.is_file()
    )
    impatient = {"AWS_MAX_ATTEMPTS": "1"}

    cable.cut_after(size // 2)
    failed(carl.run("dvc", "push", *at, check=False, **impatient), "onnect")
    assert not damaged(carl)
    cable.mend()
    carl.run("dvc", "push", *at)
    assert "in sync" in carl.run("dvc", "status", "--cloud", *at).stdout

    dora = Checkout(tmp_path / "dora")
    carl.run("git", "clone", "--quiet", str(carl.folder), str(dora.folder))
    remote.allow(dora)
    cable.cut_after(size // 2)
    failed(dora.run("dvc", "pull", *at, check=False, **impatient), "onnect")
    assert not damaged(dora)
    cable.mend()
    dora.run("dvc", "pull", *at)
    assert "up to date" in dora.run("dvc", "status").stdout
    cable.close()


def test_no_credentials_in_this_project() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert len(names) > 100
    assert not {".dvc/config.local", "server/.env"} & set(names)
    assigned = re.compile(
        r"(?:secret_access_key|password|secret_key|aws_secret_access_key) *[=:]"
        r" *['\"]?[0-9a-z+/]{12,}|AKIA[0-9A-Z]{16}"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^\s/:@{}$\"']+:[^\s/@{}$\"']+@",
        re.IGNORECASE,
    )
    found = {name: assigned.search((ROOT / name).read_text(errors="replace")) for name in names}
    assert not {name: match.group() for name, match in found.items() if match}
    word = "w" * 16  # put together here, or this file would be found too
    for leaked in (
        f"aws_secret_access_key = {word}",
        f"https://user:{word}@host/",
        f"AKIA{word.upper()}",
    ):
        assert assigned.search(leaked)
