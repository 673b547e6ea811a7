#!/usr/bin/env bash
# Starts a Docker engine where none answers, and leaves it running.
#
#   engine.sh           starts it; it hands out a GPU that is not there: see bin/
#   engine.sh --stop    ends it; containers live on (live-restore)
#
# Its log: /var/log/llm-backend-dockerd.log
set -euo pipefail

readonly LOG=/var/log/llm-backend-dockerd.log PID=/var/run/docker.pid
here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

answers() { docker version >/dev/null 2>&1; }

# is_running: whether the process that the pid file names is an engine.
is_running() { [[ -e $PID && $(cat "/proc/$(<"$PID")/comm" 2>/dev/null) == dockerd ]]; }

# within_30_s COMMAND...: whether it succeeds in time.
within_30_s() {
  for _ in {1..300}; do
    ! "$@" || return 0
    sleep 0.1
  done
  return 1
}

start() {
  if ! is_running; then
    rm -f "$PID" # of an engine that was killed
    PATH=$here/bin:$PATH setsid dockerd --live-restore >>"$LOG" 2>&1 </dev/null &
  fi
  within_30_s answers
}

stop() {
  ! is_running || kill "$(<"$PID")"
  # shellcheck disable=SC2016 # for the inner shell
  within_30_s bash -c '[[ ! -e $0 ]]' "$PID"
}

case "${1-}" in
  "") answers || start || {
    echo "No Docker engine answers after 30 s. The end of $LOG:" >&2
    tail -n 20 "$LOG" >&2
    exit 1
  } ;;
  --stop) stop || { echo "The Docker engine did not end within 30 s: $LOG" >&2 && exit 1; } ;;
  *) echo "'$1' is not an option of engine.sh" >&2 && exit 2 ;;
esac
