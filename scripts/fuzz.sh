#!/bin/sh
# Fuzzes for so many seconds in all: fuzz.sh SECONDS [TARGET ...]
#
# The stable compiler can put in the counters that libFuzzer steers by (fuzz/rustc.sh); cargo-fuzz asks for
# a nightly one for the sanitizers, of which safe code has no need. Each target begins with its seeds and
# with what earlier runs found in target/fuzz/found/. An input that fails is kept in target/fuzz/failed/:
# put it among the seeds with its cure.
#
# With SEED in the environment nothing is left to chance and nothing is taken from earlier runs: the same
# program is given the same inputs in the same order, and only how far it gets depends on the machine.

set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
target=${CARGO_TARGET_DIR:-target}
targets=${*:-$(ls fuzz/fuzz_targets | sed 's/\.rs$//')}

cp Cargo.lock fuzz/Cargo.lock
RUSTC_WRAPPER=$PWD/fuzz/rustc.sh cargo build --manifest-path fuzz/Cargo.toml --target-dir "$target" --bins

seed=
if [ -n "${SEED:-}" ]; then
    seed=-seed=$SEED
    afresh=$(mktemp -d)
    trap 'rm -rf "$afresh"' EXIT
fi
# As many at a time as there are processors; each by itself uses one.
jobs=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
count=$(echo "$targets" | wc -w)
rounds=$(((count + jobs - 1) / jobs))
each=$((seconds / rounds))
if [ "$each" -lt 1 ]; then each=1; fi

fuzz() {
    name=$1
    found=${afresh:-$target/fuzz/found}/$name
    failed=$target/fuzz/failed/$name
    log=$target/fuzz/$name.log
    mkdir -p "$found" "$failed"
    dictionary=
    if [ -e "fuzz/$name.dict" ]; then dictionary=-dict=fuzz/$name.dict; fi
    if ! "$target/debug/fuzz_$name" -max_total_time="$each" -timeout=60 -rss_limit_mb=1024 \
        -print_final_stats=1 $seed $dictionary -artifact_prefix="$failed/" "$found" "fuzz/seeds/$name" >"$log" 2>&1
    then
        tail -40 "$log" >&2
        echo "$name failed; the input is in $failed" >&2
        return 1
    fi
    sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/'"$name"': \1 inputs in \2 s, none failed/p' "$log"
}

set -- $targets
while [ $# -gt 0 ]; do
    running=
    while [ $# -gt 0 ] && [ "$(echo $running | wc -w)" -lt "$jobs" ]; do
        fuzz "$1" &
        running="$running $!"
        shift
    done
    for process in $running; do wait "$process" || failed_any=yes; done
done
[ -z "${failed_any:-}" ]
