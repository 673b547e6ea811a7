#!/bin/sh
# Starts Redis with one user. The password comes from the environment and goes into a file in
# memory, so it is on no command line.
set -eu
: "${REDIS_PASSWORD:?is empty. Type: bash scripts/start_all.sh --setup compose}"
umask 077
cat >/run/redis/users.acl <<END
user default off
user gateway on >$REDIS_PASSWORD ~llm-cache:* resetchannels -@all +getrange +pttl +set +unlink +scan +select
END
exec redis-server /etc/redis/redis.conf
