#!/usr/bin/env bash
# The how-to's database backup by curl alone; receiver.py beside this file is the app that the triggers go to.
# Environment: APP_PORT, DAPR_HTTP_PORT (given by whoever starts us), BACKUP_REPEATS (default 10).
set -euo pipefail
repeats=${BACKUP_REPEATS:-10}
job=http://127.0.0.1:${DAPR_HTTP_PORT:-3500}/v1.0/jobs/prod-db-backup

python3 "$(dirname "$0")/receiver.py" "${APP_PORT:-6002}" "$repeats" &
receiver=$!
trap 'kill "$receiver" 2>/dev/null || true' EXIT

curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-connrefused -X POST "$job" -d '{
  "schedule": "@every 1s",
  "repeats": '"$repeats"',
  "data": {"db": "my-prod-db", "retention_days": 7},
  "overwrite": true
}'
echo "scheduled: $(curl --silent --show-error --fail "$job")"
wait "$receiver"
curl --silent --show-error --fail -X DELETE "$job"
