#!/usr/bin/env bash
# Install what tests start: OpenSSH, PostgreSQL and Chromium from Debian, SeaweedFS and MLflow's extras with pip.
# Never fails: a test says which program it lacks, and is skipped. Usage: tests/servers.sh, in the environment of the tests.
set -uo pipefail
cd "$(dirname "$0")/.."

mapfile -t extras < <(python -c "
import tomllib
extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']
print(*extras['remotes'], *extras['server'], sep='\n')")
python -m pip install --quiet --constraint constraints.txt "${extras[@]}" ||
  echo "note: pip could not install the extras remotes and server"

PATH=$PATH:/usr/sbin:$(printf '%s:' /usr/lib/postgresql/*/bin)
missing=()
command -v sshd > /dev/null || missing+=(openssh-server)
command -v initdb > /dev/null || missing+=(postgresql)
command -v chromedriver > /dev/null || missing+=(chromium chromium-driver)
if [ "${#missing[@]}" -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } > /dev/null ||
    echo "note: Debian's packages could not be installed: ${missing[*]}"
fi
exit 0
