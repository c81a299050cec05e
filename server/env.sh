#!/usr/bin/env bash
# Print the server's settings with fresh random passwords: (umask 077 && bash server/env.sh > server/.env)
set -euo pipefail
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
cat <<SETTINGS
# Read by server/start.sh and by docker compose. Never in git; whoever reads it can read and write everything.
MLFLOW_HOST=127.0.0.1
MLFLOW_PORT=5000
# Names that the server may be called by, as they stand in the browser; a name without a port does not match one with it.
MLFLOW_SERVER_ALLOWED_HOSTS=localhost:*,127.0.0.1:*
MLFLOW_AUTH_ADMIN_USERNAME=admin
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret)
POSTGRES_PORT=5442
POSTGRES_PASSWORD=$(secret)
S3_PORT=8333
AWS_ACCESS_KEY_ID=team
AWS_SECRET_ACCESS_KEY=$(secret)
SETTINGS
