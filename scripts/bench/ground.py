"""The cluster that everything is measured before, pgbench, and what the machine is."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from throwaway import ROOT, Cluster, program  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
SCALE = 10


def raise_limits():
    """As many files as the system lets this process and its children open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Ground(Cluster):
    """A primary and replicas with pgbench's tables; the targets are started beside them."""

    def __init__(self, replicas):
        super().__init__(replicas, "-c shared_buffers=256MB -c max_connections=200")
        self.pgbench(self.ports[0], "-i", "-q", "-s", str(SCALE))
        # Replayed, and its dirty pages written.
        time.sleep(3)

    def pgbench(self, port, *arguments, tls=False):
        command = [program("pgbench"), "-h", "127.0.0.1", "-p", str(port), "-U", "app", *arguments, "app"]
        environment = {**os.environ, "PGPASSWORD": "app", "PGSSLMODE": "require" if tls else "disable"}
        run = subprocess.run(command, env=environment, cwd=self.directory, capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"pgbench {' '.join(arguments)}: {run.stderr[-2000:]}")
        return run.stdout

    def verifier(self):
        """What the nodes keep of the password of app."""
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.ports[0]), "-U", "postgres", "-Atc"]
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"
        environment = {**os.environ, "PGPASSWORD": "postgres"}
        run = subprocess.run([*command, query], env=environment, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    def run_pgbench(self, target, clients, seconds, *arguments, sampled=0.1):
        """Runs pgbench against a target and tells what it and the proxy said."""
        for old in self.directory.glob("round.*"):
            old.unlink()
        before = target.cpu()
        report = self.pgbench(
            target.port, "-n", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds),
            "-l", f"--sampling-rate={sampled}", "--log-prefix=round", *arguments,
            tls=target.tls,
        )
        cpu = target.cpu() - before
        done = int(re.search(r"actually processed: (\d+)", report)[1])
        failed = int(re.search(r"failed transactions: (\d+)", report)[1])
        if not done and not failed and seconds < 30:
            # pgbench's clock runs while its clients log in: on a busy machine that may be all it had.
            return self.run_pgbench(target, clients, seconds * 3, *arguments, sampled=sampled)
        if failed or not done:
            raise RuntimeError(f"{target.name}: {failed} failed, {done} done")
        logs = self.directory.glob("round.*")
        times = sorted(int(line.split()[2]) for log in logs for line in open(log))
        return Run(float(re.search(r"tps = ([\d.]+)", report)[1]), times, cpu / done * 1e6)


class Run:
    """One run of pgbench: transactions a second, their times, the proxy's CPU for each in µs."""

    def __init__(self, tps, times, cpu):
        self.tps, self.cpu = tps, cpu
        # Milliseconds.
        self.p50, self.p99 = percentile(times, 0.50) / 1000, percentile(times, 0.99) / 1000


def percentile(ordered, part):
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else float("nan")


def version(*command):
    try:
        run = subprocess.run(command, capture_output=True, text=True)
        return (run.stdout or run.stderr).splitlines()[0].strip()
    except (OSError, IndexError):
        return "unknown"


def machine():
    """What this ran on, as lines of a list."""
    models = (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    memory = int(open("/proc/meminfo").readline().split()[1]) // 1024 // 1024
    release = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
    system = release.get("PRETTY_NAME", platform.system()).strip('"')
    found = lambda name: shutil.which(name) or f"/usr/sbin/{name}"
    others = [
        version(found("pgbouncer"), "--version"),
        version(found("pgpool"), "--version"),
        version(found("haproxy"), "-v").split(" - ")[0],
    ]
    return [
        f"- Machine: {next(models, platform.machine())}, {os.cpu_count()} cores, {memory} GiB; {system}, "
        f"Linux {platform.release()}",
        f"- {version(program('postgres'), '--version')}; {'; '.join(others)}",
        f"- {version(TARGET / 'release/causeway', '--version')}, release build, {version('rustc', '--version')}",
        f"- pgbench, PostgreSQL's nodes and the proxy share these cores; {time.strftime('%Y-%m-%d')}",
    ]
