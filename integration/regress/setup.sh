#!/bin/sh
# Fetches PostgreSQL's own regression suite for the server that is installed, from Debian's source package,
# and builds the library that its tests load. Nothing is installed but into DIRECTORY.
#
# setup.sh DIRECTORY

set -eu
directory=$1
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
major=$(basename "$(dirname "$bin")")
version=$(dpkg-query -W -f '${Version}' "postgresql-$major")
[ "$(cat "$directory/version" 2>/dev/null)" != "$version" ] || exit 0

echo "fetching PostgreSQL's regression suite ($version)"
rm -rf "$directory"
mkdir -p "$directory/lists/partial" "$directory/sources"
cd "$directory"
# Source packages are not in everybody's list of sources, and nobody's list is changed for this.
for list in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$list" ] || sed 's/^Types:.*/Types: deb-src/' "$list" >"sources/$(basename "$list")"
done
cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb /deb-src /p' >sources/all.list
apt="-qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$PWD/sources -o Dir::State::Lists=$PWD/lists"
# shellcheck disable=SC2086 # options are words
apt-get $apt update 2>/dev/null
# The mirror may be ahead of or behind what is installed: any minor version of the major one does.
for wanted in "=$version" $(apt-cache $apt showsrc "postgresql-$major" | sed -n 's/^Version: /=/p'); do
    # shellcheck disable=SC2086
    if apt-get $apt source --download-only "postgresql-$major$wanted" 2>/dev/null; then break; fi
done
tar -xf postgresql-*.orig.tar.* --strip-components=3 --wildcards '*/src/test/regress'
mkdir -p headers
for wanted in "=$version" ""; do
    if apt-get -qq download "postgresql-server-dev-$major$wanted" 2>/dev/null; then break; fi
done
dpkg -x postgresql-server-dev-"$major"_*.deb headers
cc -shared -fPIC -O1 -w -I "headers/usr/include/postgresql/$major/server" -I headers/usr/include/postgresql/internal \
    -I/usr/include/postgresql -o regress/regress.so regress/regress.c
rm -rf lists sources headers ./*.deb ./*.tar.* ./*.dsc
chmod -R a+rX .
echo "$version" >version
