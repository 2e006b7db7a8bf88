"""A throw-away cluster for the scripts, made by scripts/postgres as the integration tests' are.

watch.sh removes it when this process's end of a pipe closes, however this process ends.
"""

import glob
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_port(taken=set()):
    """Below the range of outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex(("127.0.0.1", port)) != 0:
                taken.add(port)
                return port


def program(name):
    """Of PostgreSQL's server package: the newest installed, else on the path."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda p: int(p.split("/")[4]))
    return found[-1] if found else shutil.which(name) or sys.exit(f"no {name} found")


def await_port(port, process, what):
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"{what} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"{what} does not listen")


class Cluster:
    """A primary, replicas, and the processes that are started beside them, in one directory."""

    def __init__(self, replicas, server_options=""):
        self.directory = Path(tempfile.mkdtemp(prefix="causeway-"))
        self.directory.chmod(0o755)
        scripts = self.directory / "scripts"
        shutil.copytree(ROOT / "scripts/postgres", scripts)
        for path in [scripts, *scripts.iterdir()]:
            path.chmod(0o755)
        self.watch = subprocess.Popen(
            ["sh", scripts / "watch.sh", self.directory], stdin=subprocess.PIPE, start_new_session=True
        )
        self.ports = [free_port() for _ in range(replicas + 1)]
        self.children = []
        for number, port in enumerate(self.ports):
            node = self.directory / ("primary" if number == 0 else f"replica{number}")
            node.mkdir()
            server = self.spawn(
                ["sh", scripts / ("replica.sh" if number else "primary.sh")],
                node / "log",
                PGDATA=str(node / "data"),
                PGPORT=str(port),
                PGLISTEN="127.0.0.1",
                NODE_NAME=node.name,
                SERVER_OPTIONS=f"-c fsync=off -c dynamic_shared_memory_type=mmap {server_options}",
                INITDB_OPTIONS="--no-sync",
                BASEBACKUP_OPTIONS="--no-sync",
                PRIMARY_HOST="127.0.0.1",
                PRIMARY_PORT=str(self.ports[0]),
            )
            self.await_ready(node / "data/postmaster.pid", server, node.name)

    def await_ready(self, file, server, name):
        for _ in range(1200):
            if server.poll() is not None:
                log = (self.directory / name / "log").read_text(errors="replace")
                sys.exit(f"{name} ended with {server.returncode}:\n{log[-2000:]}")
            lines = file.read_text().split() if file.exists() else []
            if lines and lines[0] == str(server.pid) and lines[-1] == "ready":
                return
            time.sleep(0.05)
        sys.exit(f"{name} does not start")

    def spawn(self, command, log, guard=False, **environment):
        """Starts a process; a guarded one does not outlive this one (servers never do)."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=open(log, "wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self.children.append(process)
        if guard:
            self.watch.stdin.write(f"+{process.pid}\n".encode())
            self.watch.stdin.flush()
        return process

    def close(self):
        self.watch.stdin.close()
        for child in self.children:
            child.wait()
        self.watch.wait()
