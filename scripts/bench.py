#!/usr/bin/env python3
"""Measures Causeway with pgbench's select-only, side by side with what one would compare it to.

All targets run before the same cluster (a primary and two replicas, throw-away, on this machine), in
turn, several short rounds of each, so that whatever the machine does meanwhile hits all alike:

  direct           pgbench connects to the primary
  forwarder        benches/forwarder before the primary: copies bytes, nothing else
  pgbouncer        Debian's package before the primary, transaction pooling
  causeway-1       Causeway with the primary as its only node: the cost of the proxy alone
  causeway         Causeway with all three nodes: reads on the replicas

Prints tables; with --write it puts them into docs/BENCHMARKS.md between the markers.
Needs nothing but Python 3.9 and what `make bench` builds and installs.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from throwaway import ROOT, Cluster, await_port, free_port, program

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
MODES = ["simple", "extended", "prepared"]
BEGIN, END = "<!-- pgbench: begin -->", "<!-- pgbench: end -->"


class Ground(Cluster):
    """The cluster with pgbench's tables; the targets are started beside it."""

    def __init__(self):
        super().__init__(2, "-c shared_buffers=256MB -c max_connections=200")
        self.pgbench(self.ports[0], "-i", "-q", "-s", "10")
        # Replayed, and its dirty pages written.
        time.sleep(3)

    def pgbench(self, port, *arguments):
        run = subprocess.run(
            [program("pgbench"), "-h", "127.0.0.1", "-p", str(port), "-U", "app", *arguments, "app"],
            env={**os.environ, "PGPASSWORD": "app"},
            cwd=self.directory,
            capture_output=True,
            text=True,
        )
        if run.returncode != 0:
            raise RuntimeError(f"pgbench {' '.join(arguments)}: {run.stderr}")
        return run.stdout


class Target:
    """Something that pgbench connects to; `process` is the proxy, if there is one."""

    def __init__(self, name, port, process=None):
        self.name, self.port, self.process = name, port, process

    def cpu(self):
        """Seconds of CPU time that the proxy has used, all threads, user and system."""
        if self.process is None:
            return 0.0
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


CAUSEWAY = """\
[proxy]
listen = "127.0.0.1:{port}"
http = "127.0.0.1:{http}"

[cluster]
nodes = [{nodes}]

[monitor]
user = "app"
password = "app"
database = "app"

[pool]
mode = "transaction"
size = 20

[routing]
consistency = "eventual"

[[user]]
name = "app"
password = "app"
"""

PGBOUNCER = """\
[databases]
app = host=127.0.0.1 port={primary} user=app password=app

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = scram-sha-256
auth_file = {directory}/userlist.txt
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
unix_socket_dir =
logfile = {directory}/pgbouncer-{mode}.log
pidfile = {directory}/pgbouncer-{mode}.pid
"""


def start_causeway(ground, name, ports):
    port, http = free_port(), free_port()
    config = ground.directory / f"{name}.toml"
    nodes = ", ".join(f'"127.0.0.1:{node}"' for node in ports)
    config.write_text(CAUSEWAY.format(port=port, http=http, nodes=nodes))
    command = [TARGET / "release/causeway", "run", "--config", config]
    process = ground.spawn(command, ground.directory / f"{name}.log", guard=True)
    await_port(port, process, name)
    return Target(name, port, process)


def start_pgbouncer(ground, mode, size):
    port = free_port()
    (ground.directory / "userlist.txt").write_text('"app" "app"\n')
    config = ground.directory / f"pgbouncer-{mode}.ini"
    text = PGBOUNCER.format(
        primary=ground.ports[0], port=port, directory=ground.directory, mode=mode, size=size
    )
    config.write_text(text)
    command = [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", config]
    if os.geteuid() == 0:
        # It refuses to run as root.
        (ground.directory / "pgbouncer").mkdir(exist_ok=True)
        text = text.replace(f"{ground.directory}/pgbouncer-{mode}", f"{ground.directory}/pgbouncer/{mode}")
        config.write_text(text)
        shutil.chown(ground.directory / "pgbouncer", "postgres")
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command]
    process = ground.spawn(command, ground.directory / f"pgbouncer-{mode}.out", guard=True)
    await_port(port, process, "pgbouncer")
    return Target("pgbouncer" if mode == "transaction" else f"pgbouncer ({mode})", port, process)


def start_forwarder(ground):
    port = free_port()
    command = [TARGET / "release/forwarder", f"127.0.0.1:{port}", f"127.0.0.1:{ground.ports[0]}"]
    process = ground.spawn(command, ground.directory / "forwarder.log", guard=True)
    await_port(port, process, "forwarder")
    return Target("forwarder", port, process)


def measure(ground, target, mode, clients, seconds):
    """One round: (queries a second, mean ms, 99th percentile ms, µs of proxy CPU a query)."""
    for old in ground.directory.glob("round.*"):
        old.unlink()
    before = target.cpu()
    report = ground.pgbench(
        target.port, "-n", "-S", "-M", mode, "-c", str(clients), "-j", str(min(clients, 2)),
        "-T", str(seconds), "-l", "--sampling-rate=0.1", "--log-prefix=round",
    )
    cpu = target.cpu() - before
    done = int(re.search(r"actually processed: (\d+)", report)[1])
    failed = int(re.search(r"failed transactions: (\d+)", report)[1])
    if failed:
        raise RuntimeError(f"{target.name}: {failed} failed")
    times = sorted(
        int(line.split()[2]) for log in ground.directory.glob("round.*") for line in open(log)
    )
    p99 = times[int(len(times) * 0.99)] / 1000 if times else float("nan")
    tps = float(re.search(r"tps = ([\d.]+)", report)[1])
    mean = float(re.search(r"latency average = ([\d.]+)", report)[1])
    return tps, mean, p99, cpu / done * 1e6


def version(*command):
    try:
        run = subprocess.run(command, capture_output=True, text=True)
        return (run.stdout or run.stderr).splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def machine():
    cpu = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = int(open("/proc/meminfo").readline().split()[1]) // 1024 // 1024
    system = next(
        (line.split("=")[1].strip().strip('"') for line in open("/etc/os-release") if line.startswith("PRETTY")),
        platform.system(),
    )
    bouncer = version(shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "--version")
    return [
        f"- Machine: {cpu}, {os.cpu_count()} cores, {memory} GiB; {system}, Linux {platform.release()}",
        f"- {version(program('postgres'), '--version')}; {version(program('pgbench'), '--version')}; {bouncer}",
        f"- {version(TARGET / 'release/causeway', '--version')}, release build, {version('rustc', '--version')}",
        f"- pgbench, PostgreSQL's three nodes and the proxy share these cores; date {time.strftime('%Y-%m-%d')}",
    ]


def tables(results, arguments):
    lines = [
        f"Median of {arguments.rounds} rounds of {arguments.seconds} s, the targets in turn within each round; "
        "pgbench select-only, scale 10.",
        "",
    ]
    for mode in arguments.modes:
        lines += [f"### {mode} protocol" if mode != "prepared" else "### prepared statements", ""]
        lines += [
            "| clients | target | queries/s | mean ms | p99 ms | proxy CPU µs/query |",
            "|---:|---|---:|---:|---:|---:|",
        ]
        for clients in arguments.clients:
            for (name, of_mode, of_clients), rounds in results.items():
                if (of_mode, of_clients) == (mode, clients):
                    tps, mean, p99, cpu = (statistics.median(column) for column in zip(*rounds))
                    used = "" if name == "direct" else f"{cpu:.1f}"
                    lines.append(f"| {clients} | {name} | {tps:,.0f} | {mean:.3f} | {p99:.3f} | {used} |")
        lines.append("")
    return lines


def write(text):
    path = ROOT / "docs/BENCHMARKS.md"
    old = path.read_text()
    head, rest = old.split(BEGIN)
    path.write_text(head + BEGIN + "\n\n" + text + "\n" + END + rest.split(END)[1])


def main():
    numbers = lambda text: [int(part) for part in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32])
    parser.add_argument("--modes", type=lambda text: text.split(","), default=MODES)
    parser.add_argument("--write", action="store_true", help="into docs/BENCHMARKS.md")
    arguments = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ground = Ground()
    try:
        direct, forwarder = Target("direct", ground.ports[0]), start_forwarder(ground)
        bouncer = start_pgbouncer(ground, "transaction", 20)
        # Before 1.21 PgBouncer knows no prepared statements in transaction pooling.
        session = start_pgbouncer(ground, "session", 40)
        alone = start_causeway(ground, "causeway-1", ground.ports[:1])
        causeway = start_causeway(ground, "causeway", ground.ports)
        time.sleep(2)
        results = {}
        for mode in arguments.modes:
            pgbouncer = session if mode == "prepared" else bouncer
            for clients in arguments.clients:
                for number in range(arguments.rounds):
                    for target in [direct, forwarder, pgbouncer, alone, causeway]:
                        round_ = measure(ground, target, mode, clients, arguments.seconds)
                        results.setdefault((target.name, mode, clients), []).append(round_)
                        print(
                            f"{mode:9} {clients:3} clients  {target.name:20} {round_[0]:9.0f}/s"
                            f" {round_[1]:7.3f} ms  p99 {round_[2]:7.3f} ms  {round_[3]:6.1f} µs CPU",
                            flush=True,
                        )
        text = "\n".join(machine() + [""] + tables(results, arguments))
        print("\n" + text)
        if arguments.write:
            write(text)
    finally:
        ground.close()


if __name__ == "__main__":
    main()
