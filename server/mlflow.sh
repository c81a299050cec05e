#!/usr/bin/env bash
# The MLflow server, the same in server/start.sh and in compose.yaml: runs and accounts in PostgreSQL, artifacts in S3.
# Clients need no S3 key, for artifacts pass through this server. Settings: server/.env, POSTGRES_HOST, S3_URL.
set -euo pipefail
umask 077
database="postgresql+psycopg://postgres:$POSTGRES_PASSWORD@$POSTGRES_HOST:$POSTGRES_PORT/postgres"
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<ACCOUNTS
[mlflow]
default_permission = EDIT
database_uri = $database
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# without it every request hashes the password again, a quarter of a second
auth_cache_ttl_seconds = 60
ACCOUNTS
# in the environment, where `ps` does not show the password
export MLFLOW_AUTH_CONFIG_PATH MLFLOW_BACKEND_STORE_URI=$database MLFLOW_S3_ENDPOINT_URL=$S3_URL
export MLFLOW_ARTIFACTS_DESTINATION=s3://mlflow/artifacts AWS_DEFAULT_REGION=us-east-1
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server --app-name basic-auth --host "$MLFLOW_HOST" --port "$MLFLOW_PORT" --workers 1
