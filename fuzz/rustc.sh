#!/bin/sh
# The compiler for scripts/fuzz.sh: gives what is fuzzed the counters that libFuzzer steers by. All else
# is compiled as ever, so that the dependencies are those that the tests have built already.
for argument; do
    if [ "$argument" = causeway ] || [ "$argument" = causeway_fuzz ]; then
        exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
            -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    fi
done
exec "$@"
