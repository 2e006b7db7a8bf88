"""Measures Causeway beside what one would compare it with, before one throw-away cluster.

All targets run at once and are measured in turn, several short rounds of each, so that whatever the
machine does meanwhile hits all alike:

  direct           pgbench connects to the primary
  forwarder        benches/forwarder before the primary: copies bytes, nothing else
  pgbouncer        Debian's, before the primary, transaction pooling; for prepared statements session
                   pooling where it is older than 1.21
  haproxy          Debian's, TCP mode, before the primary
  pgpool           Debian's Pgpool-II before all nodes, with load balancing
  causeway-1       Causeway with the primary as its only node: the cost of the proxy alone
  causeway         Causeway with a primary and two replicas, session consistency
  causeway eventual  the same without it, where the two are compared
  NAME=HOST:PORT   anything else that listens on this machine and knows the user app (password app)

Prints tables; with --write it puts them into docs/BENCHMARKS.md between the markers. `--quick` is for a
look; `--only select-only,idle` measures part. Needs nothing but Python 3.9 and what `make bench` builds
and installs.
"""

import argparse
import signal
import sys
import time

import cells
import ground as grounds
import targets

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


class Those:
    """All targets."""

    def __init__(self, ground, others, lean):
        self.direct = targets.Target("direct", ground.ports[0])
        self.forwarder = targets.forwarder(ground)
        self.pgbouncer = targets.pgbouncer(ground)
        self.for_prepared = self.pgbouncer
        if not targets.knows_prepared_statements():
            self.for_prepared = targets.pgbouncer(ground, "session", 40)
        self.haproxy = targets.haproxy(ground)
        self.alone = targets.causeway(ground, "causeway-1", ground.ports[:1])
        self.causeway = targets.causeway(ground, "causeway", ground.ports[:3])
        self.more = [] if lean else [targets.pgpool(ground, ground.ports[:3])]
        self.more += others
        self._eventual = None

    def eventual(self, ground):
        """Causeway before the same nodes as `causeway`, without the promises of level session."""
        if not self._eventual:
            self._eventual = targets.causeway(ground, "causeway eventual", ground.ports[:3], consistency="eventual")
            time.sleep(2)
        return self._eventual

    def for_mode(self, mode):
        bouncer = self.for_prepared if mode == "prepared" else self.pgbouncer
        return [self.direct, self.forwarder, bouncer, self.haproxy, *self.more, self.alone, self.causeway]


def report(tables, aims, arguments):
    lines = grounds.machine()
    lines += [
        "",
        f"Medians of {arguments.rounds} rounds of {arguments.seconds} s in turn, with the least and the most in parentheses "
        "(one client and TLS: three rounds at most; direct, haproxy and pgpool: one).",
        "",
    ]
    lines += table(cells.Table("Aims", "", ["what", "aim", "measured", "met"], aims.rows))
    for one in tables:
        lines += table(one)
    return "\n".join(lines)


def table(one):
    lines = [f"### {one.title}", ""]
    if one.note:
        lines += [one.note, ""]
    lines += ["| " + " | ".join(one.columns) + " |", "|" + "---|" * len(one.columns)]
    lines += ["| " + " | ".join(str(field) for field in row) + " |" for row in one.rows]
    return [*lines, ""]


def write(text):
    path = grounds.ROOT / "docs/BENCHMARKS.md"
    head, rest = path.read_text().split(BEGIN)
    path.write_text(head + BEGIN + "\n\n" + text + "\n" + END + rest.split(END)[1])


def other(text):
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        raise argparse.ArgumentTypeError("expected NAME=127.0.0.1:PORT")
    return targets.Target(name, int(port), pid_of_listener(int(port)))


def pid_of_listener(port):
    """Whose CPU is counted for a target that was started elsewhere; None if it cannot be told."""
    import os
    from pathlib import Path

    inodes = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and int(fields[1].split(":")[1], 16) == port
    }
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for file in (process / "fd").iterdir():
                if os.readlink(file).removeprefix("socket:[").removesuffix("]") in inodes:
                    return int(process.name)
        except OSError:
            continue
    return None


def main():
    numbers = lambda text: [int(part) for part in text.split(",")]
    words = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("others", nargs="*", type=other, metavar="NAME=HOST:PORT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32])
    parser.add_argument("--modes", type=words, default=cells.MODES)
    parser.add_argument("--only", type=words, default=list(cells.CELLS), help=",".join(cells.CELLS))
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument("--write", action="store_true", help="into docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments.files = grounds.raise_limits()
    began = time.monotonic()
    ground = grounds.Ground(3)
    try:
        those = Those(ground, arguments.others, lean="select-only" not in arguments.only)
        time.sleep(2)
        aims, tables = cells.Aims(), []
        for name in arguments.only:
            cells.say(f"== {name} ({time.monotonic() - began:.0f} s)")
            tables += cells.CELLS[name](ground, those, arguments, aims)
        text = report(tables, aims, arguments)
        print("\n" + text)
        if arguments.write:
            write(text)
        cells.say(f"took {time.monotonic() - began:.0f} s")
    finally:
        ground.close()


if __name__ == "__main__":
    main()
