"""What is measured: how each is configured and started."""

import os
import shutil
import subprocess

from ground import TARGET
from throwaway import await_port, free_port

import processes


class Target:
    """Something that pgbench connects to; `pid` is the proxy's, if there is one."""

    def __init__(self, name, port, pid=None, tls=False):
        self.name, self.port, self.pid, self.tls = name, port, pid, tls

    def cpu(self):
        """Seconds of processor time that the proxy has used."""
        return processes.cpu(self.pid) if self.pid else 0.0


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
size = {size}

[limits]
clients = 20000

[routing]
consistency = "{consistency}"

[[user]]
name = "app"
password = "app"
{tables}
"""

PGBOUNCER = """\
[databases]
app = host=127.0.0.1 port={primary}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = scram-sha-256
auth_file = {directory}/userlist.txt
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 15000
max_prepared_statements = 200
unix_socket_dir =
logfile = {directory}/pgbouncer.log
pidfile = {directory}/pgbouncer.pid
{extra}
"""

PGPOOL = """\
listen_addresses = '127.0.0.1'
port = {port}
socket_dir = '{directory}'
pcp_listen_addresses = ''
pcp_port = {pcp}
pcp_socket_dir = '{directory}'
pid_file_name = '{directory}/pgpool.pid'
logdir = '{directory}'
work_dir = '{directory}'
backend_clustering_mode = 'streaming_replication'
load_balance_mode = on
num_init_children = 40
max_pool = 1
enable_pool_hba = on
pool_passwd = 'pool_passwd'
sr_check_period = 1
sr_check_user = 'app'
sr_check_password = 'app'
sr_check_database = 'app'
health_check_period = 0
{backends}
"""

HAPROXY = """\
global
    nbthread 2
    maxconn 4000

defaults
    mode tcp
    option tcp-smart-accept
    timeout connect 5s
    timeout client 1h
    timeout server 1h

listen postgres
    bind 127.0.0.1:{port}
    server primary 127.0.0.1:{primary}
"""


def own_directory(ground, name):
    """For programs that refuse to run as root: theirs, and how to start them."""
    directory = ground.directory / name
    directory.mkdir()
    if os.geteuid() != 0:
        return directory, []
    shutil.chown(directory, "postgres", "postgres")
    return directory, ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


def started(ground, name, port, command, tls=False):
    process = ground.spawn(command, ground.directory / f"{name.replace(' ', '-')}.log", guard=True)
    await_port(port, process, name)
    return Target(name, port, process.pid, tls)


def program(name):
    return shutil.which(name) or f"/usr/sbin/{name}"


def certificate(ground):
    """A key and a certificate for it, made at the first call."""
    key, chain = ground.directory / "tls.key", ground.directory / "tls.crt"
    if not chain.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-keyout", key, "-out", chain],
            check=True, capture_output=True,
        )
        if os.geteuid() == 0:
            shutil.chown(key, "postgres", "postgres")
    return key, chain


def causeway(ground, name, ports, consistency="session", size=20, tls=False):
    port, http = free_port(), free_port()
    tables = ""
    if tls:
        key, chain = certificate(ground)
        tables = f'\n[tls]\nmode = "require"\ncertificate = "{chain}"\nkey = "{key}"'
    config = ground.directory / f"{name.replace(' ', '-')}-{port}.toml"
    nodes = ", ".join(f'"127.0.0.1:{node}"' for node in ports)
    config.write_text(
        CAUSEWAY.format(port=port, http=http, nodes=nodes, consistency=consistency, size=size, tables=tables)
    )
    return started(ground, name, port, [TARGET / "release/causeway", "run", "--config", config], tls)


def pgbouncer(ground, mode="transaction", size=20, tls=False):
    name = "pgbouncer" if mode == "transaction" else f"pgbouncer ({mode})"
    extra = ""
    if tls:
        name = "pgbouncer tls"
        key, chain = certificate(ground)
        extra = f"client_tls_sslmode = require\nclient_tls_key_file = {key}\nclient_tls_cert_file = {chain}"
    port = free_port()
    directory, prefix = own_directory(ground, f"pgbouncer-{port}")
    # Given the password it would derive the keys anew for each login.
    (directory / "userlist.txt").write_text(f'"app" "{ground.verifier()}"\n')
    config = directory / "pgbouncer.ini"
    settings = dict(primary=ground.ports[0], port=port, directory=directory, mode=mode, size=size, extra=extra)
    text = PGBOUNCER.format(**settings)
    if not knows_prepared_statements():
        text = text.replace("max_prepared_statements = 200\n", "")
    config.write_text(text)
    return started(ground, name, port, [*prefix, program("pgbouncer"), config], tls)


def knows_prepared_statements():
    """PgBouncer does so in transaction pooling since 1.21."""
    run = subprocess.run([program("pgbouncer"), "--version"], capture_output=True, text=True)
    number = run.stdout.split()[1].split(".")
    return (int(number[0]), int(number[1])) >= (1, 21)


def forwarder(ground, port_of_node=None):
    port = free_port()
    command = [TARGET / "release/forwarder", f"127.0.0.1:{port}", f"127.0.0.1:{port_of_node or ground.ports[0]}"]
    return started(ground, "forwarder", port, command)


def haproxy(ground):
    port = free_port()
    config = ground.directory / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, primary=ground.ports[0]))
    return started(ground, "haproxy", port, [program("haproxy"), "-db", "-f", config])


def pgpool(ground, ports):
    port = free_port()
    directory, prefix = own_directory(ground, "pgpool")
    backends = "\n".join(
        f"backend_hostname{number} = '127.0.0.1'\nbackend_port{number} = {node}\nbackend_weight{number} = 1\n"
        f"backend_flag{number} = 'DISALLOW_TO_FAILOVER'"
        for number, node in enumerate(ports)
    )
    config = directory / "pgpool.conf"
    config.write_text(PGPOOL.format(port=port, pcp=free_port(), directory=directory, backends=backends))
    (directory / "pool_hba.conf").write_text("host all all all scram-sha-256\n")
    (directory / "pool_passwd").write_text("app:TEXTapp\n")
    (directory / "pcp.conf").write_text("")
    command = [program("pgpool"), "-n", "-f", config, "-a", directory / "pool_hba.conf", "-F", directory / "pcp.conf"]
    return started(ground, "pgpool", port, [*prefix, *command])
