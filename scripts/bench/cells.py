"""The rows that are measured. Each function runs one kind of load and returns a `Table`; what it has
shown of the aims in docs/BENCHMARKS.md it adds to `aims`."""

import subprocess
import sys
import time
from statistics import median

import processes
import targets
from clients import Client

MODES = ["simple", "extended", "prepared"]
SELECT = "select-only"
READ = "\\set aid random(1, 1000000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
WRITE = "\\set aid random(1, 1000000)\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
MEGABYTE = 1 << 20


class Table:
    """A table of the report."""

    def __init__(self, title, note, columns, rows):
        self.title, self.note, self.columns, self.rows = title, note, columns, rows


class Aims:
    """What was aimed at, and what was reached, in the order of measuring."""

    def __init__(self):
        self.rows = []

    def add(self, what, value, limit, unit="", less=True):
        """`value` against `limit`; `less` says which side of it is good."""
        met = value <= limit if less else value >= limit
        sign = "≤" if less else "≥"
        self.rows.append([what, f"{sign} {limit:.3g}{unit}", f"{value:.3g}{unit}", "yes" if met else "**no**"])


def say(text):
    print(text, flush=True)


def spread(values, digits=1):
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def interleaved(ground, several, rounds, seconds, clients, *arguments, few=()):
    """Runs all in turn, `rounds` times; those in `few` once. Runs by name."""
    runs = {}
    for number in range(rounds):
        for target in several:
            if target.name in few and number > 0:
                continue
            run = ground.run_pgbench(target, clients, seconds, *arguments)
            runs.setdefault(target.name, []).append(run)
            say(f"  {target.name:22} {run.tps:9.0f}/s  p50 {run.p50:7.3f}  p99 {run.p99:7.3f} ms  {run.cpu:6.1f} µs CPU")
    return runs


def mid(runs, what):
    return median(getattr(run, what) for run in runs)


def select_only(ground, those, arguments, aims):
    """pgbench's select-only in three protocols at several numbers of clients."""
    tables = []
    for mode in arguments.modes:
        rows = []
        for clients in arguments.clients:
            say(f"select-only, {mode}, {clients} clients")
            several, rounds = those.for_mode(mode), arguments.rounds
            if clients == 1:
                # Times, which differ less from round to round than CPU and throughput.
                several = [target for target in several if target.name not in ("haproxy", "pgpool")]
                rounds = min(rounds, 3)
            runs = interleaved(
                ground, several, rounds, arguments.seconds, clients,
                "-b", SELECT, "-M", mode, few=("direct", "haproxy", "pgpool"),
            )
            bare = mid(runs["forwarder"], "cpu")
            for name, of_target in runs.items():
                cpu = [run.cpu for run in of_target]
                rows.append([
                    clients, name, spread([run.tps for run in of_target], 0),
                    f"{mid(of_target, 'p50'):.3f}", f"{mid(of_target, 'p99'):.3f}",
                    "" if name == "direct" else spread(cpu),
                    "" if name == "direct" else f"{median(cpu) / bare:.2f}",
                ])
            judge_select_only(runs, mode, clients, bare, aims)
        columns = ["clients", "target", "queries/s", "p50 ms", "p99 ms", "proxy CPU µs/query", "x forwarder"]
        title = "Select-only, prepared statements" if mode == "prepared" else f"Select-only, {mode} protocol"
        tables.append(Table(title, "", columns, rows))
    return tables


def judge_select_only(runs, mode, clients, bare, aims):
    bouncer = next(runs[name] for name in runs if name.startswith("pgbouncer"))
    for name in ["causeway-1", "causeway"]:
        label = f"{name}, {mode}, {clients} clients"
        if clients > 1:
            aims.add(f"CPU per query against the forwarder: {label}", mid(runs[name], "cpu") / bare, 1.15, " x")
            aims.add(f"CPU per query against PgBouncer: {label}", mid(runs[name], "cpu") / mid(bouncer, "cpu"), 1.0, " x")
            aims.add(f"throughput against PgBouncer: {label}", mid(runs[name], "tps") / mid(bouncer, "tps"), 1.0, " x", less=False)
        else:
            for part in ["p50", "p99"]:
                aims.add(f"latency {part} against PgBouncer: {label}", mid(runs[name], part) / mid(bouncer, part), 1.0, " x")


def mix(ground, those, arguments, aims):
    """Nine reads to one write."""
    files = {"read.sql": READ, "write.sql": WRITE}
    for name, text in files.items():
        (ground.directory / name).write_text(text)
    say("90/10 mix, 32 clients")
    scripts = [f"{ground.directory}/read.sql@9", f"{ground.directory}/write.sql@1"]
    several = [those.forwarder, those.pgbouncer, those.alone, those.eventual(ground), those.causeway]
    runs = interleaved(
        ground, several, arguments.rounds, arguments.seconds, 32, "-f", scripts[0], "-f", scripts[1],
    )
    judge_consistency(runs, "90/10 mix, 32 clients", 0.9, aims)
    bare = mid(runs["forwarder"], "cpu")
    rows = []
    for name, of_target in runs.items():
        cpu = [run.cpu for run in of_target]
        rows.append([
            name, spread([run.tps for run in of_target], 0), f"{mid(of_target, 'p99'):.3f}",
            spread(cpu), f"{median(cpu) / bare:.2f}",
        ])
    for name in ["causeway-1", "causeway"]:
        aims.add(f"CPU per statement of the 90/10 mix against the forwarder: {name}", mid(runs[name], "cpu") / bare, 1.3, " x")
    columns = ["target", "statements/s", "p99 ms", "proxy CPU µs/statement", "x forwarder"]
    return [Table("90/10 mix of reads and writes, 32 clients", "", columns, rows)]


def consistency(ground, those, arguments, aims):
    """The same nodes with and without the promise that nobody falls behind what was written and seen."""
    rows = []
    for clients in [8, 32]:
        say(f"consistency, select-only, {clients} clients")
        several = [those.forwarder, those.eventual(ground), those.causeway]
        runs = interleaved(ground, several, arguments.rounds, arguments.seconds, clients, "-b", SELECT)
        judge_consistency(runs, f"select-only, {clients} clients", 0.97, aims)
        bare = mid(runs["forwarder"], "cpu")
        for name, of_target in runs.items():
            cpu = [run.cpu for run in of_target]
            rows.append([
                clients, name, spread([run.tps for run in of_target], 0), f"{mid(of_target, 'p99'):.3f}",
                spread(cpu), f"{median(cpu) / bare:.2f}",
            ])
    columns = ["clients", "target", "queries/s", "p99 ms", "proxy CPU µs/query", "x forwarder"]
    note = "A primary and two replicas; simple protocol. The 90/10 mix is in the table above."
    return [Table("Level eventual beside level session, select-only", note, columns, rows)]


def judge_consistency(runs, label, least, aims):
    eventual, session = runs["causeway eventual"], runs["causeway"]
    aims.add(f"throughput of level session against eventual: {label}", mid(session, "tps") / mid(eventual, "tps"), least, " x", less=False)


def tls(ground, those, arguments, aims):
    """TLS toward clients, plain toward the primary."""
    several = [targets.pgbouncer(ground, tls=True), targets.causeway(ground, "causeway-1 tls", ground.ports[:1], tls=True)]
    rows = []
    for clients in [8, 32]:
        say(f"select-only over TLS, {clients} clients")
        runs = interleaved(ground, several, min(arguments.rounds, 3), arguments.seconds, clients, "-b", SELECT)
        bouncer, ours = (mid(runs[target.name], "cpu") for target in several)
        for name, of_target in runs.items():
            rows.append([
                clients, name, spread([run.tps for run in of_target], 0), f"{mid(of_target, 'p50'):.3f}",
                f"{mid(of_target, 'p99'):.3f}", spread([run.cpu for run in of_target]),
            ])
        aims.add(f"CPU per query over TLS against PgBouncer, {clients} clients", ours / bouncer, 1.15, " x")
    columns = ["clients", "target", "queries/s", "p50 ms", "p99 ms", "proxy CPU µs/query"]
    return [Table("Select-only with TLS to clients, simple protocol", "", columns, rows)]


def routing_share(ground, those, arguments, aims):
    """How much of Causeway's CPU goes into reading texts and deciding."""
    rows = []
    for mode in ["simple", "prepared"]:
        say(f"profile, {mode}")
        with processes.Profile(those.causeway.pid, ground.directory) as profile:
            ground.run_pgbench(those.causeway, 8, max(arguments.seconds, 2), "-b", SELECT, "-M", mode)
        share = profile.share("causeway::sql::", "causeway::routing::")
        if share is None:
            say("  perf gives no samples here")
            continue
        rows.append([mode, f"{share:.1f} %", f"{profile.share('causeway::'):.1f} %"])
        aims.add(f"share of CPU in sql and routing: {mode}", share, 3, " %")
    return [Table("Where Causeway's CPU goes (perf, 8 clients)", "", ["protocol", "sql + routing", "all of causeway::"], rows)]


def big_results(ground, those, arguments, aims):
    """COPY of 1 GB to the client, and rows of 1 MB."""
    size = 1000 if not arguments.quick else 100
    loads = {
        f"COPY of {size} MB": f"COPY (SELECT repeat('x', 1023) FROM generate_series(1, {size * 1024})) TO STDOUT",
        "rows of 1 MB": f"SELECT repeat('x', 1048576) FROM generate_series(1, {size // 2})",
    }
    rows = []
    for load, query in loads.items():
        costs = {}
        for target in [those.forwarder, those.pgbouncer, those.haproxy, those.causeway] * (1 if arguments.quick else 2):
            client = Client(target.port)
            processes.forget_peak(target.pid)
            before, began = target.cpu(), time.monotonic()
            seen = client.flood(query) / MEGABYTE
            took = time.monotonic() - began
            costs.setdefault(target.name, []).append(((target.cpu() - before) / seen * 1e6, seen / took))
            peak = processes.peak(target.pid) / MEGABYTE
            costs[target.name][-1] += (peak,)
            client.close()
            say(f"  {load}, {target.name:12} {costs[target.name][-1]}")
        for name, of_target in costs.items():
            cpu, rate, peak = (min(column) for column in zip(*of_target))
            rows.append([load, name, f"{rate:,.0f}", f"{cpu:.0f}", f"{peak:.0f}"])
        cheapest = {name: min(cost[0] for cost in of_target) for name, of_target in costs.items()}
        aims.add(f"CPU per MB, {load}, against the forwarder", cheapest["causeway"] / cheapest["forwarder"], 1.1, " x")
    columns = ["load", "target", "MB/s", "proxy CPU µs/MB", "peak resident MB of the process"]
    return [Table("Big results, one client", "The better of two runs.", columns, rows)]


def idle_clients(ground, those, arguments, aims):
    """Connected and logged in, each after one query, and silent."""
    count = min(10_000 if not arguments.quick else 1000, (arguments.files - 500))
    rows = []
    for tls in [False, True]:
        ours = targets.causeway(ground, "causeway tls idle" if tls else "causeway idle", ground.ports[:3], tls=tls)
        for target in [ours, targets.pgbouncer(ground, tls=tls)]:
            each = of_a_crowd(target, count)
            rows.append([target.name.removesuffix(" idle"), f"{count:,}", f"{each / 1024:.2f}"])
            if target is ours:
                label = "KiB (PSS) for an idle client" + (" with TLS" if tls else "")
                aims.add(label, each / 1024, 12 if tls else 4, " KiB")
    return [Table("Idle clients", "", ["target", "clients", "KiB (PSS) each"], rows)]


def of_a_crowd(target, count):
    """Bytes (PSS) for each of so many idle clients."""
    Client(target.port, target.tls).close()
    time.sleep(1)
    before, began = processes.pss(target.pid), time.monotonic()
    crowd = subprocess.Popen(
        [sys.executable, __file__, "crowd", str(target.port), str(count), str(int(target.tls))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    if crowd.stdout.readline() != b"ready\n":
        raise RuntimeError("the crowd did not get in")
    took = time.monotonic() - began
    time.sleep(1)
    each = (processes.pss(target.pid) - before) / count
    say(f"  {target.name}: {each:.0f} bytes a client, {count / took:.0f} logins/s")
    crowd.stdin.close()
    crowd.wait()
    return each


def many_active(ground, those, arguments, aims):
    """2,000 clients that all want one of 20 servers."""
    clients = 2000 if not arguments.quick else 400
    # pgbench's clock runs while its clients log in.
    seconds = max(arguments.seconds * 2, 4) + clients // 150
    rows = []
    for target in [those.pgbouncer, those.alone]:
        few = ground.run_pgbench(target, 32, arguments.seconds, "-b", SELECT)
        run = ground.run_pgbench(target, clients, seconds, "-b", SELECT, sampled=1)
        say(f"  {target.name}: {run.tps:.0f}/s, p50 {run.p50:.1f}, p99 {run.p99:.1f} ms; 32 clients {few.tps:.0f}/s")
        rows.append([
            target.name, f"{run.tps:,.0f}", f"{few.tps:,.0f}", f"{run.p50:.1f}", f"{run.p99:.1f}",
            f"{run.p99 / run.p50:.2f}", f"{run.cpu:.1f}",
        ])
        if target is those.alone:
            aims.add(f"p99 / p50 with {clients} active clients", run.p99 / run.p50, 3)
            aims.add(f"throughput with {clients} active clients against 32", run.tps / few.tps, 0.9, " x", less=False)
    columns = ["target", "queries/s", "of 32 clients", "p50 ms", "p99 ms", "p99 / p50", "proxy CPU µs/query"]
    return [Table(f"{clients:,} active clients over 20 servers", "", columns, rows)]


def logins(ground, those, arguments, aims):
    """A SCRAM login and one query for each connection; and what that does to others."""
    seconds = max(arguments.seconds, 3)
    rows, cost = [], {}
    for target in [those.pgbouncer, those.alone]:
        quiet = ground.run_pgbench(target, 4, seconds, "-b", SELECT)
        query = ground.run_pgbench(target, 8, arguments.seconds, "-b", SELECT).cpu
        storm = ground.run_pgbench(target, 8, seconds, "-b", SELECT, "-C")
        cost[target.name] = storm.cpu - query
        beside = subprocess.Popen(
            [sys.executable, __file__, "logins", str(target.port), "100", str(seconds + 1)], stdout=subprocess.DEVNULL
        )
        disturbed = ground.run_pgbench(target, 4, seconds, "-b", SELECT)
        beside.wait()
        say(f"  {target.name}: {storm.tps:.0f} logins/s, {cost[target.name]:.0f} µs each; p99 {quiet.p99} -> {disturbed.p99}")
        rows.append([
            target.name, f"{storm.tps:,.0f}", f"{cost[target.name]:.0f}", f"{1e6 / cost[target.name]:,.0f}",
            f"{quiet.p99:.3f}", f"{disturbed.p99:.3f}",
        ])
        if target is those.alone:
            aims.add("logins per second of the proxy's CPU against PgBouncer", cost["pgbouncer"] / cost[target.name], 1, " x", less=False)
            aims.add("p99 of queries beside 100 logins/s", disturbed.p99 / quiet.p99, 2, " x")
    columns = ["target", "logins/s, 8 at once", "proxy CPU µs/login", "logins/s of one core", "p99 ms of 4 clients", "the same beside 100 logins/s"]
    return [Table("Logins", "Client, server and proxy share the cores; the client's part of SCRAM costs the most.", columns, rows)]


def scale(ground, those, arguments, aims):
    """Statements that cost server time, on one, two and three replicas, few servers each."""
    (ground.directory / "sleep.sql").write_text("SELECT pg_sleep(0.005);\n")
    rows, base = [], None
    for replicas in [1, 2, 3]:
        target = targets.causeway(
            ground, f"causeway scale {replicas}", ground.ports[: replicas + 1], consistency="eventual", size=4
        )
        time.sleep(2)
        seconds = max(arguments.seconds, 3)
        run = ground.run_pgbench(target, 32, seconds, "-f", f"{ground.directory}/sleep.sql")
        base = base or run.tps
        say(f"  {replicas} replicas: {run.tps:.0f}/s")
        rows.append([replicas, f"{run.tps:,.0f}", f"{run.tps / base / replicas:.3f}"])
        if replicas > 1:
            aims.add(f"{replicas} replicas against linear", run.tps / base / replicas, 0.95, less=False)
    note = "pg_sleep(0.005), 32 clients, 4 servers per node."
    return [Table("Scale with replicas", note, ["replicas", "statements/s", "of linear"], rows)]


CELLS = {
    "select-only": select_only,
    "mix": mix,
    "consistency": consistency,
    "tls": tls,
    "routing": routing_share,
    "big": big_results,
    "idle": idle_clients,
    "active": many_active,
    "logins": logins,
    "scale": scale,
}


def crowd(port, count, tls):
    """So many clients, silent until standard input ends."""
    import ground

    ground.raise_limits()
    clients = []
    for _ in range(count):
        clients.append(Client(port, bool(tls)))
        clients[-1].flood("SELECT 1")
    print("ready", flush=True)
    sys.stdin.read()


def log_in_and_out(port, rate, seconds):
    """So many logins a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        Client(port).close()
        time.sleep(max(0, 1 / rate - (time.monotonic() - began)))


if __name__ == "__main__":
    kind, *numbers = sys.argv[1:]
    {"crowd": crowd, "logins": log_in_and_out}[kind](*(int(number) for number in numbers))
