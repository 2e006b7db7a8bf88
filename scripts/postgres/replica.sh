#!/bin/sh
# Starts a hot standby that streams from a primary; on the first start it copies the primary.
#
# Beside what server.sh names:
#   PRIMARY_HOST, PRIMARY_PORT    where the primary listens      (required, 5432)
#   PRIMARY_WAIT                  seconds to wait for it         (60)

. "$(dirname "$0")/server.sh"
leave_root "$0" "$@"
find_programs

: "${PRIMARY_HOST:?the host of the primary}"
PRIMARY_PORT=${PRIMARY_PORT:-5432}

wait_for_primary() {
    left=$((${PRIMARY_WAIT:-60} * 5))
    until pg_isready --quiet --host="$PRIMARY_HOST" --port="$PRIMARY_PORT"; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "the primary at $PRIMARY_HOST:$PRIMARY_PORT does not answer" >&2
            exit 1
        fi
        sleep 0.2
    done
}

# Copied beside its place and moved there when whole, as the primary's is.
copy_primary() {
    new=$PGDATA.new
    rm -rf "$new"
    # shellcheck disable=SC2086 # BASEBACKUP_OPTIONS is words
    PGPASSWORD=$REPLICATION_PASSWORD pg_basebackup --pgdata="$new" \
        --host="$PRIMARY_HOST" --port="$PRIMARY_PORT" --username="$REPLICATION_USER" \
        --wal-method=stream --checkpoint=fast --write-recovery-conf ${BASEBACKUP_OPTIONS:-}
    mv "$new" "$PGDATA"
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    wait_for_primary
    copy_primary
fi
run_server
