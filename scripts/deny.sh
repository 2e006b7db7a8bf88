#!/bin/sh
# Holds the dependencies against deny.toml: deny.sh CHECK ...  (see scripts/setup.sh deny)

set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:${CARGO_TARGET_DIR:-target}/tools/bin
cargo-deny --locked check "$@"
