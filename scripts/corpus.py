#!/usr/bin/env python3
"""How often the router is right over a corpus of statements with known truth.

corpus.py [--causeway PROGRAM] [--offline] DIRECTORY

DIRECTORY holds *.jsonl files, a statement a line: `sql`, `truth` (replica-ok, primary-only, session, txn,
error), `db`, `source`; `soft` and `temp` rows do not count. With a `load.sh HOST PORT SUPERUSER` there, the
databases are loaded into a throw-away primary and its catalog is asked; otherwise, and with --offline, the
text alone decides. Exits non-zero if, with the catalog, a statement goes to a replica that must not and that
the replica does not refuse.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from throwaway import ROOT, Cluster

CONFIG = """\
[proxy]
listen = "127.0.0.1:6432"

[cluster]
nodes = ["127.0.0.1:{port}"]

[monitor]
user = "postgres"
password = "postgres"
database = "postgres"

[[user]]
name = "postgres"
password = "postgres"
"""
# Not what programs send: what people and benchmarks wrote by hand.
BY_HAND = ("regress:", "apps", "tpch", "tpcc")
MUST_NOT = ("primary-only", "session", "txn")


def rows_of(directory):
    rows = []
    for path in sorted(Path(directory).glob("*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    rows = [row for row in rows if "sql" in row]
    return rows or sys.exit(f"no statements in {directory}")


def explain(program, config, rows, offline):
    """The answers, in order; a database that is not there is judged by the text alone."""
    asked = "".join(
        json.dumps({"sql": row["sql"], **({"database": row["db"]} if row.get("db") else {})}) + "\n"
        for row in rows
    )
    command = [program, "explain", "--config", config, "--format", "json"]
    run = subprocess.run(command + ["--offline"] * offline, input=asked, capture_output=True, text=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    # It fails when a database is not there, and answers all the same.
    if len(answers) != len(rows):
        sys.exit(f"{len(answers)} answers to {len(rows)} statements\n{run.stderr}")
    return answers


def report(rows, answers, title):
    counted = [(row, answer) for row, answer in zip(rows, answers) if not (row.get("soft") or row.get("temp"))]
    wrong = [
        (row, answer)
        for row, answer in counted
        if row["truth"] in MUST_NOT
        and answer["target"] == "replica"
        and not row["sql"].lstrip().lower().startswith("show")
    ]
    print(f"{title}: {len(rows)} statements, {len(counted)} count")
    # A statement that a replica refuses is caught by the safety net and run again on the primary; one that
    # it answers has done harm.
    refused = [row for row, _ in wrong if row.get("sqlstate_on_replica", "ok") != "ok"]
    for row, answer in wrong:
        what = "refused" if row in refused else "SILENT"
        print(f"  {what} {row['truth']} ({answer['reason']}): {' '.join(row['sql'].split())[:150]}")
    print(f"  sent to a replica though {', '.join(MUST_NOT)}: {len(wrong)}, of these {len(refused)} refused there")
    reads = [(row, answer) for row, answer in counted if row["truth"] == "replica-ok"]
    programs = [pair for pair in reads if not pair[0].get("source", BY_HAND[0]).startswith(BY_HAND)]
    for name, pairs in [("of all", reads), ("of client programs", programs)]:
        right = sum(answer["target"] in ("replica", "proxy") for _, answer in pairs)
        if pairs:
            print(f"  reads sent to a replica, {name}: {right} of {len(pairs)}, {right / len(pairs):.2%}")
    reasons = {}
    for _, answer in reads:
        if answer["target"] not in ("replica", "proxy"):
            reasons[answer["reason"]] = reasons.get(answer["reason"], 0) + 1
    for reason, times in sorted(reasons.items(), key=lambda item: -item[1]):
        print(f"    {times:4} reads kept from replicas: {reason}")
    return len(refused) == len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--causeway", default=str(ROOT / "target/debug/causeway"))
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("directory")
    arguments = parser.parse_args()
    rows = rows_of(arguments.directory)
    load = Path(arguments.directory, "load.sh").resolve()
    online = load.exists() and not arguments.offline

    cluster = Cluster(0) if online else None
    try:
        if cluster:
            environment = {**os.environ, "PGPASSWORD": "postgres"}
            port = str(cluster.ports[0])
            subprocess.run(["bash", load, "127.0.0.1", port, "postgres"], env=environment, check=True)
            config = cluster.directory / "causeway.toml"
            config.write_text(CONFIG.format(port=port))
            right = report(rows, explain(arguments.causeway, config, rows, False), "with the catalog")
        else:
            right = True
        config = ROOT / "config/minimal.toml"
        # What is behind a view's name no text tells: counted, not held against it.
        report(rows, explain(arguments.causeway, config, rows, True), "by the text alone")
    finally:
        if cluster:
            cluster.close()
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
