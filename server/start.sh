#!/usr/bin/env bash
# A team's tracking server and bucket: MLflow with accounts, PostgreSQL, SeaweedFS (S3). Runs until Ctrl-C.
# Usage: bash server/start.sh [STATE [SETTINGS]]; by default server/state and server/.env, which is made if missing.
# Needs PostgreSQL's programs and `pip install -e '.[server]'`. compose.yaml is the same for Docker.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
state=${1:-$here/state} settings=${2:-$here/.env}
[ -f "$settings" ] || (umask 077 && bash "$here/env.sh" > "$settings")
set -a
. "$settings"
set +a
mkdir -p "$state/seaweedfs"
state=$(cd "$state" && pwd)

PATH=$PATH:$(printf '%s:' /usr/lib/postgresql/*/bin)
for program in initdb weed mlflow; do
  command -v "$program" > /dev/null || { echo "error: $program is not installed (docs/server.md)" >&2; exit 2; }
done
as_postgres=() # PostgreSQL refuses to run as root
if [ "$(id -u)" = 0 ]; then
  as_postgres=(runuser -u postgres --)
  install -d -o postgres -m 700 "$state/postgres"
fi
if [ ! -f "$state/postgres/PG_VERSION" ]; then
  password=$(mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" > "$password"
  [ "$(id -u)" != 0 ] || chown postgres "$password"
  "${as_postgres[@]}" initdb -D "$state/postgres" -U postgres -A scram-sha-256 --pwfile="$password" > "$state/initdb.log"
  rm "$password"
fi
stop() {
  trap - EXIT
  kill $(jobs -p) 2> /dev/null || true
  "${as_postgres[@]}" pg_ctl -D "$state/postgres" -m fast stop > /dev/null || true
  wait
}
trap stop EXIT
trap 'exit 0' INT TERM
"${as_postgres[@]}" pg_ctl -D "$state/postgres" -l "$state/postgres/log" -w start > /dev/null \
  -o "-c listen_addresses=127.0.0.1 -p $POSTGRES_PORT -c unix_socket_directories=''"

# every part but MLflow answers on this machine alone; reach it from outside through a proxy with TLS
p=$S3_PORT
weed mini -dir="$state/seaweedfs" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port="$p" -s3.port.grpc=$((p + 1)) \
  -master.port=$((p + 2)) -master.port.grpc=$((p + 3)) -volume.port=$((p + 4)) -volume.port.grpc=$((p + 5)) \
  -filer.port=$((p + 6)) -filer.port.grpc=$((p + 7)) -admin.port=$((p + 8)) \
  -s3.port.lance=$((p + 9)) -s3.port.iceberg=0 -webdav=false -admin.ui=false \
  -bucket=dvc,mlflow -s3.autoCreateBucket=false -master.telemetry=false > "$state/seaweedfs.log" 2>&1 &
POSTGRES_HOST=127.0.0.1 S3_URL=http://127.0.0.1:$S3_PORT bash "$here/mlflow.sh" > "$state/mlflow.log" 2>&1 &

until curl --silent --fail --output /dev/null "http://$MLFLOW_HOST:$MLFLOW_PORT/health"; do
  [ "$(jobs -rp | wc -l)" = 2 ] || { echo "error: a server did not start: see $state/*.log" >&2; exit 1; }
  sleep 0.2
done
echo "ready: MLflow at http://$MLFLOW_HOST:$MLFLOW_PORT, S3 at http://127.0.0.1:$S3_PORT, accounts in $settings"
wait -n || true
echo "error: a server stopped: see $state/*.log" >&2
exit 1
