# What primary.sh and replica.sh share; sourced, never run.
#
# A node is described by its environment:
#   PGDATA          data directory; its parent must exist or be creatable       (required)
#   PGPORT          port                                                        (5432)
#   PGLISTEN        listen_addresses                                            (*)
#   PGSOCKETS       unix_socket_directories; empty for none                     (empty)
#   PGBIN           directory of initdb, postgres, pg_basebackup                (looked for)
#   NODE_NAME       cluster_name                                                (causeway)
#   SERVER_OPTIONS  more words for postgres' command line, as "-c fsync=off"    (empty)
#   REPLICATION_USER, REPLICATION_PASSWORD                                      (replicator, replicator)
#
# PostgreSQL refuses to run as root; started as root, the scripts go on as the user postgres.

set -eu
umask 077

: "${PGDATA:?the data directory}"
PGPORT=${PGPORT:-5432}
PGLISTEN=${PGLISTEN:-*}
PGSOCKETS=${PGSOCKETS:-}
NODE_NAME=${NODE_NAME:-causeway}
SERVER_OPTIONS=${SERVER_OPTIONS:-}
REPLICATION_USER=${REPLICATION_USER:-replicator}
REPLICATION_PASSWORD=${REPLICATION_PASSWORD:-replicator}

# Everything libpq would read from the environment is given in words instead.
unset PGHOST PGUSER PGDATABASE PGPASSWORD PGOPTIONS PGSERVICE PGHOSTADDR || true
export PGDATA PGPORT

# Runs the calling script again as the user postgres, if this is root.
leave_root() {
    [ "$(id -u)" -eq 0 ] || return 0
    parent=$(dirname "$PGDATA")
    mkdir -p "$parent"
    chown postgres: "$parent"
    cd /
    exec setpriv --reuid=postgres --regid=postgres --init-groups -- sh "$@"
}

# Puts PostgreSQL's programs on the path: PGBIN, what is there already, or the newest installed.
find_programs() {
    if [ -n "${PGBIN:-}" ]; then
        PATH=$PGBIN:$PATH
    elif ! command -v initdb >/dev/null 2>&1; then
        for candidate in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin 2>/dev/null | sort -V); do
            if [ -x "$candidate/initdb" ]; then PGBIN=$candidate; fi
        done
        if [ -z "${PGBIN:-}" ]; then
            echo "no initdb found: install PostgreSQL's server package (Debian: apt-get install postgresql) or set PGBIN" >&2
            exit 1
        fi
        PATH=$PGBIN:$PATH
    fi
    export PATH
}

# Becomes the server. What differs between nodes is given here and not in postgresql.conf, which a
# base backup copies from the primary.
run_server() {
    # shellcheck disable=SC2086 # SERVER_OPTIONS is words
    exec postgres -D "$PGDATA" \
        -c port="$PGPORT" \
        -c listen_addresses="$PGLISTEN" \
        -c unix_socket_directories="$PGSOCKETS" \
        -c cluster_name="$NODE_NAME" \
        $SERVER_OPTIONS
}
