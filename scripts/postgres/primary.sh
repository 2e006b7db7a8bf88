#!/bin/sh
# Starts a primary that replicas can stream from, and makes its data directory on the first start.
#
# Beside what server.sh names:
#   POSTGRES_PASSWORD                         of the superuser postgres          (postgres)
#   APP_USER, APP_PASSWORD, APP_DATABASE      role and database of applications  (app, app, app)

. "$(dirname "$0")/server.sh"
leave_root "$0" "$@"
find_programs

APP_USER=${APP_USER:-app}
APP_PASSWORD=${APP_PASSWORD:-app}
APP_DATABASE=${APP_DATABASE:-app}

literal() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }
identifier() { printf '"%s"' "$(printf %s "$1" | sed 's/"/""/g')"; }

# Made beside its place and moved there when whole: a start that was cut short leaves nothing that
# looks like a data directory.
make_data_directory() {
    new=$PGDATA.new
    rm -rf "$new"
    printf '%s\n' "${POSTGRES_PASSWORD:-postgres}" >"$PGDATA.password"
    # shellcheck disable=SC2086 # INITDB_OPTIONS is words
    initdb --pgdata="$new" --username=postgres --pwfile="$PGDATA.password" --encoding=UTF8 \
        --locale=C.UTF-8 --auth-local=peer --auth-host=scram-sha-256 ${INITDB_OPTIONS:-} >/dev/null
    rm -f "$PGDATA.password"
    cat >>"$new/postgresql.conf" <<CONF

# A primary that hot standbys stream from, and what a standby needs once it is promoted.
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
# Instead of slots: a replica may be away for this much WAL, and a dead one fills no disk.
wal_keep_size = 256MB
hot_standby = on
# A former primary can be rewound instead of copied anew.
wal_log_hints = on
password_encryption = scram-sha-256
max_connections = 200
CONF
    cat >>"$new/pg_hba.conf" <<CONF

host all all all scram-sha-256
host replication $(identifier "$REPLICATION_USER") all scram-sha-256
CONF
    # Single-user mode: no port is open before the roles are there. One statement a line.
    postgres --single -D "$new" -c exit_on_error=on postgres >/dev/null <<SQL
CREATE ROLE $(identifier "$REPLICATION_USER") LOGIN REPLICATION PASSWORD $(literal "$REPLICATION_PASSWORD")
CREATE ROLE $(identifier "$APP_USER") LOGIN PASSWORD $(literal "$APP_PASSWORD")
CREATE DATABASE $(identifier "$APP_DATABASE") OWNER $(identifier "$APP_USER")
SQL
    mv "$new" "$PGDATA"
}

[ -s "$PGDATA/PG_VERSION" ] || make_data_directory
run_server
