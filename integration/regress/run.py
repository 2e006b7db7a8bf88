#!/usr/bin/env python3
"""PostgreSQL's own regression suite, through Causeway and directly, compared line by line.

run.py [--causeway PROGRAM] [--suite DIRECTORY] [--keep DIRECTORY] [TEST ...]

Both runs use a fresh primary with two replicas whose commits return when every replica shows them, so that
what is compared are sessions and not lag. Through Causeway the suite is spread over all three: transaction
pooling, reads on replicas. What differs is printed as a diff of the two outputs; DIFFERS says of which tests
that is expected and why. Exits non-zero if another differs.

With names of tests only these are run, after `test_setup` and in the order given.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from throwaway import Cluster, await_port, free_port, program  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
DATABASE = "regression"

CONFIG = """\
[proxy]
listen = "127.0.0.1:{port}"
http = "127.0.0.1:{http}"
workers = 2

[cluster]
nodes = [{nodes}]

[monitor]
user = "postgres"
password = "postgres"
database = "postgres"

[pool]
size = 30

[routing]
consistency = "eventual"

[[user]]
name = "postgres"
password = "postgres"
"""

# Tests whose output differs, and why. A test that is not here must not differ, one that is here must.
DIFFERS = {
    "stats": "counters are published by the server that did the work, not by the one that is asked",
}

# Tests whose output differs in some runs, and why.
MAY_DIFFER = {
    "triggers": "set_ttdummy() keeps a static variable in C, which is its server's",
    "guc": "whether a server has loaded a library depends on who it has served before",
    "create_index": "plans depend on what VACUUM could mark visible while others had snapshots",
}


class Ground(Cluster):
    """Three nodes that show a commit everywhere before it returns, and the suite beside them."""

    def __init__(self, suite):
        super().__init__(
            2,
            "-c synchronous_standby_names=2(*) -c synchronous_commit=remote_apply "
            "-c max_standby_streaming_delay=1s -c max_connections=200 " + os.environ.get("SERVER_OPTIONS", ""),
        )
        self.suite = self.directory / "suite"
        shutil.copytree(suite / "regress", self.suite)
        # What the tests of triggers load, from the packages.
        libraries = Path(program("psql")).resolve().parents[1] / "lib"
        for name in ["autoinc", "refint"]:
            shutil.copy(libraries / f"{name}.so", self.suite)
        # Tests have the server write there as well.
        for name in ["results", "testtablespace"]:
            path = self.suite / name
            path.mkdir(exist_ok=True)
            path.chmod(0o777)

    def start_causeway(self, causeway):
        port, http = free_port(), free_port()
        config = self.directory / "causeway.toml"
        nodes = ", ".join(f'"127.0.0.1:{node}"' for node in self.ports)
        config.write_text(CONFIG.format(port=port, http=http, nodes=nodes))
        self.log = self.directory / "causeway.log"
        proxy = self.spawn([causeway, "run", "--config", str(config)], self.log, guard=True)
        await_port(port, proxy, "causeway")
        self.http = http
        return port

    def metrics(self):
        from urllib.request import urlopen

        return urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10).read().decode()

    def run(self, port, tests):
        regress = Path(program("psql")).resolve().parent
        command = [
            regress.parent / "lib/pgxs/src/test/regress/pg_regress",
            f"--inputdir={self.suite}",
            f"--outputdir={self.suite}",
            f"--dlpath={self.suite}",
            f"--bindir={regress}",
            "--host=127.0.0.1",
            f"--port={port}",
            "--user=postgres",
            f"--dbname={DATABASE}",
            "--max-concurrent-tests=20",
        ]
        command += ["test_setup", *tests] if tests else [f"--schedule={self.suite}/parallel_schedule"]
        environment = {**os.environ, "PGPASSWORD": "postgres"}
        run = subprocess.run(command, env=environment, cwd=self.suite, capture_output=True, text=True)
        print("\n".join((run.stdout + run.stderr).strip().splitlines()[-6:]), file=sys.stderr)
        results = sorted((self.suite / "results").glob("*.out"))
        return {path.stem: path.read_text(errors="replace").replace(str(self.suite), "SUITE") for path in results}


def difference(name, direct, through):
    lines = difflib.unified_diff(
        direct.splitlines(), through.splitlines(), f"{name}: direct", f"{name}: through Causeway", lineterm="", n=6
    )
    return list(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--causeway", default=str(TARGET / "debug/causeway"))
    parser.add_argument("--suite", type=Path, default=TARGET / "regress")
    parser.add_argument("--keep", type=Path, help="puts both outputs, the diffs and the log there")
    parser.add_argument("tests", nargs="*")
    arguments = parser.parse_args()

    outputs, metrics, log, nodes = {}, "", "", []
    for kind in ["direct", "through"]:
        ground = Ground(arguments.suite)
        try:
            print(f"--- {kind}", file=sys.stderr)
            port = ground.start_causeway(arguments.causeway) if kind == "through" else ground.ports[0]
            outputs[kind] = ground.run(port, arguments.tests)
            if kind == "through":
                metrics, log = ground.metrics(), ground.log.read_text(errors="replace")
                nodes = [(node, node.read_text(errors="replace")) for node in ground.directory.glob("*/log")]
        finally:
            ground.close()
    direct, through = outputs["direct"], outputs["through"]
    differences = {
        name: difference(name, direct.get(name, ""), through.get(name, ""))
        for name in sorted(direct.keys() | through.keys())
    }
    differ = {name: lines for name, lines in differences.items() if lines}
    if arguments.keep:
        shutil.rmtree(arguments.keep, ignore_errors=True)
        for kind, files in outputs.items():
            (arguments.keep / kind).mkdir(parents=True)
            for name, text in files.items():
                (arguments.keep / kind / f"{name}.out").write_text(text)
        (arguments.keep / "causeway.log").write_text(log)
        (arguments.keep / "metrics").write_text(metrics)
        for path, text in nodes:
            (arguments.keep / f"{path.parent.name}.log").write_text(text)
        for name, lines in differ.items():
            (arguments.keep / f"{name}.diff").write_text("\n".join(lines) + "\n")
    served = {
        match[1]: int(float(match[2]))
        for match in re.finditer(r'^causeway_statements_total\{reason="([^"]+)"\} (\S+)$', metrics, re.M)
    }
    for name, lines in differ.items():
        known = DIFFERS.get(name) or MAY_DIFFER.get(name)
        print(f"{name}: {len(lines)} lines of diff" + (f" (known: {known})" if known else ""))
        if not known:
            print("\n".join(f"    {line}" for line in lines[:60]))
    print(f"{len(direct)} tests directly, {len(through)} through Causeway, {len(differ)} differ: {', '.join(differ)}")
    for reason, count in sorted(served.items(), key=lambda item: -item[1])[:12]:
        print(f"    {count:7} {reason}")
    settled = DIFFERS.keys() - differ.keys() if not arguments.tests else set()
    for name in sorted(settled):
        print(f"{name}: does not differ any more; take it out of DIFFERS")
    sys.exit(1 if differ.keys() - DIFFERS.keys() - MAY_DIFFER.keys() or settled else 0)


if __name__ == "__main__":
    main()
