//! The file as a contract: what is read, what is refused, and in which words.

use std::path::Path;
use std::time::Duration;

use super::settings::{
    Balance, Consistency, Listen, NodeTlsMode, PoolMode, RuleTarget, TlsMode, UserPassword,
};
use super::{ConfigError, Settings, load, parse_with, shape};

const ISSUE: &str = r#"
[proxy]
listen = "127.0.0.1:6432"
http   = "127.0.0.1:9632"
workers = 2

[cluster]
nodes = ["127.0.0.1:15432", "127.0.0.1:15433", "127.0.0.1:15434"]

[monitor]
user = "app"
password = "app"
database = "app"
interval = "250ms"
max_lag = "2s"
readmit_lag = "500ms"
readmit_after = 3

[pool]
mode = "transaction"
size = 20
wait = "10s"

[routing]
consistency = "eventual"
balance = "round-robin"

[[user]]
name = "app"
password = "app"
"#;

fn read(text: &str) -> Result<Settings, ConfigError> {
    parse_with(text, Path::new("/base"), &|name| {
        (name == "SET").then(|| "from the environment".to_owned())
    })
}

/// The settings of [`ISSUE`] with `from` replaced.
fn with(from: &str, to: &str) -> Result<Settings, ConfigError> {
    assert!(ISSUE.contains(from), "{from}");
    read(&ISSUE.replacen(from, to, 1))
}

fn complaints(result: Result<Settings, ConfigError>) -> String {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_contract_file_is_understood() {
    let settings = read(ISSUE).unwrap();
    assert_eq!(settings.proxy.listen, [Listen::Tcp("127.0.0.1:6432".parse().unwrap())]);
    assert_eq!(settings.proxy.http, Some("127.0.0.1:9632".parse().unwrap()));
    assert_eq!(settings.proxy.workers, 2);
    assert_eq!(settings.nodes.len(), 3);
    assert_eq!(&*settings.nodes[1].name, "127.0.0.1:15433");
    assert_eq!((settings.nodes[1].address.port, settings.nodes[1].weight), (15433, 1));
    assert_eq!(settings.monitor.interval, Duration::from_millis(250));
    assert_eq!(settings.monitor.max_lag, Duration::from_secs(2));
    assert_eq!(settings.monitor.max_lag_bytes, None);
    assert_eq!(settings.monitor.readmit_after, 3);
    assert_eq!(settings.monitor.password.as_ref().unwrap().expose(), "app");
    assert_eq!((settings.pool.mode, settings.pool.size), (PoolMode::Transaction, 20));
    assert_eq!(settings.routing.consistency, Consistency::Eventual);
    assert_eq!(settings.routing.balance, Balance::RoundRobin);
    assert!(
        matches!(&settings.users[0].password, Some(UserPassword::Plain(p)) if p.expose() == "app")
    );
}

#[test]
fn what_the_file_may_say_besides() {
    let listen = with(
        "listen = \"127.0.0.1:6432\"",
        "listen = [\"/run/pg\", \"sockets/\", \"[::1]:7000\", \"localhost:7001\"]",
    )
    .unwrap();
    let unix = |path: &str| Listen::Unix { directory: path.into(), port: 7000 };
    assert_eq!(listen.proxy.listen[..2], [unix("/run/pg"), unix("/base/sockets/")]);
    assert_eq!(listen.proxy.listen[3], Listen::Tcp("127.0.0.1:7001".parse().unwrap()));

    let nodes = with(
        "nodes = [\"127.0.0.1:15432\", \"127.0.0.1:15433\", \"127.0.0.1:15434\"]",
        "nodes = [\"/run/postgresql:5433\", \"db\", \"[::1]:1\"]\n[[cluster.node]]\nname = \"far\"\n\
         address = \"far.example:5433\"\nweight = 3\nzone = \"b\"\n[[routing.rule]]\ntarget = \"zone:b\"\n\
         [[routing.rule]]\ntarget = \"node:far\"",
    )
    .unwrap();
    let shown: Vec<_> = nodes.nodes.iter().map(|node| node.address.to_string()).collect();
    assert_eq!(shown, ["/run/postgresql:5433", "db:5432", "[::1]:1", "far.example:5433"]);
    assert_eq!((&*nodes.nodes[3].name, nodes.nodes[3].weight), ("far", 3));
    assert_eq!(nodes.routing.rules[0].target, Some(RuleTarget::Zone("b".into())));
    assert_eq!(nodes.routing.rules[1].target, Some(RuleTarget::Node("far".into())));
    assert_eq!(nodes.routing.rules[1].name, "2");

    let lag = with("readmit_lag = \"500ms\"", "max_lag_bytes = \"64KiB\"").unwrap();
    assert_eq!(lag.monitor.max_lag_bytes, Some(65536));
    assert_eq!(lag.monitor.readmit_lag, Duration::from_millis(500));

    let tls = with(
        "[pool]",
        "[tls]\nmode = \"verify-full\"\ncertificate = \"c\"\nkey = \"/k\"\nclient_root = \"r\"\n\
         client_crl = \"rl\"\n[[tls.name]]\ncertificate = \"web\"\nuser = \"app\"\n[node_tls]\nmode = \"verify-ca\"\n\
         root = \"n\"\ncrl = \"/nl\"\n[pool]",
    )
    .unwrap();
    assert_eq!(tls.tls.mode, TlsMode::VerifyFull);
    assert_eq!(tls.tls.certificate.as_deref(), Some(Path::new("/base/c")));
    assert_eq!(tls.tls.key.as_deref(), Some(Path::new("/k")));
    assert_eq!(tls.tls.client_crl.as_deref(), Some(Path::new("/base/rl")));
    assert_eq!(tls.node_tls.crl.as_deref(), Some(Path::new("/nl")));
    assert_eq!(tls.tls.names[0].user, "app");
    assert_eq!(tls.node_tls.mode, NodeTlsMode::VerifyCa);
    assert_eq!(lag.tls.mode, TlsMode::Disable);
    assert_eq!(lag.node_tls.mode, NodeTlsMode::Prefer);

    let verifier = "SCRAM-SHA-256$4096:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let users = read(&format!("{ISSUE}\n[[user]]\nname = \"v\"\npassword = \"{verifier}\"\n[[user]]\nname = \"e\"\npassword_env = \"SET\"\n")).unwrap();
    assert!(matches!(&users.users[1].password, Some(UserPassword::Verifier(_))));
    assert!(
        matches!(&users.users[2].password, Some(UserPassword::Plain(p)) if p.expose() == "from the environment")
    );
    assert!(!format!("{users:?}").contains("environment"), "a secret shows in Debug output");
}

#[test]
fn passwords_come_from_files_by_their_first_line() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "pa ss\nrest\n").unwrap();
    let text = ISSUE.replace("password = \"app\"", "password_file = \"secret\"");
    let settings = parse_with(&text, directory.path(), &|_| None).unwrap();
    assert_eq!(settings.monitor.password.unwrap().expose(), "pa ss");
}

/// What is written instead of a line of the contract file, and what the operator is told.
const REFUSED: &[(&str, &str, &str)] = &[
    ("size = 20", "sise = 20", "line 21: pool.sise: unknown key; did you mean \"size\"?"),
    ("size = 20", "max_lag = \"1s\"", "pool.max_lag: unknown key; did you mean \"max_age\"?"),
    ("size = 20", "listen = \"1s\"", "pool.listen: unknown key; it belongs under [proxy]"),
    ("size = 20", "qqq = 1", "pool.qqq: unknown key; the keys here are mode, size"),
    ("[pool]", "[pols]", "line 19: pols: unknown key; did you mean \"pool\"?"),
    ("wait = \"10s\"", "wait = 10", "10 has no unit; write a time such as \"10s\" or \"10ms\""),
    ("wait = \"10s\"", "wait = \"10\"", "pool.wait: 10 has no unit"),
    ("wait = \"10s\"", "wait = \"10 parsecs\"", "is not a time; write a number and a unit"),
    ("wait = \"10s\"", "wait = true", "must be a time such as \"250ms\", not true or false"),
    ("size = 20", "size = \"20\"", "pool.size: must be a plain number, not a string"),
    ("size = 20", "size = 0", "pool.size: 0 is out of range; it must be from 1 to 100000"),
    ("size = 20", "size = -1", "pool.size: must be a number of zero or more"),
    ("max_lag = \"2s\"", "max_lag_bytes = 7", "7 has no unit; write a size such as \"7MB\""),
    ("max_lag = \"2s\"", "max_lag_bytes = \"7 bits\"", "is not a size"),
    (
        "max_lag = \"2s\"",
        "max_lag = \"100ms\"",
        "monitor.interval: 250ms must be shorter than max_lag (100ms)",
    ),
    (
        "readmit_lag = \"500ms\"",
        "readmit_lag = \"3s\"",
        "monitor.readmit_lag: 3s must not be longer than max_lag (2s)",
    ),
    (
        "mode = \"transaction\"",
        "mode = \"statement\"",
        "\"statement\" is not one of transaction, session",
    ),
    (
        "balance = \"round-robin\"",
        "balance = \"random\"",
        "is not one of round-robin, weighted, least-in-flight, lowest-latency",
    ),
    ("127.0.0.1:15433\"", "127.0.0.1:15432\"", "cluster.nodes: \"127.0.0.1:15432\" is given twice"),
    ("127.0.0.1:15433\"", "::1:15432\"", "\"::1:15432\" is not the address of a node"),
    ("127.0.0.1:15433\"", "postgres://x@y:1\"", "is not the address of a node"),
    ("127.0.0.1:15433\"", "pg:0\"", "is not the address of a node"),
    (
        "http   = \"127.0.0.1:9632\"",
        "http = \"127.0.0.1:6432\"",
        "proxy.http: \"127.0.0.1:6432\" is given twice",
    ),
    ("http   = \"127.0.0.1:9632\"", "http = 9632", "proxy.http: must be a string, not a number"),
    (
        "http   = \"127.0.0.1:9632\"",
        "http = \"here\"",
        "proxy.http: \"here\" is not an IP address and a port",
    ),
    (
        "listen = \"127.0.0.1:6432\"",
        "listen = \"db.example:6432\"",
        "is not an address to listen on",
    ),
    ("listen = \"127.0.0.1:6432\"", "listen = []", "proxy.listen: must not be empty"),
    ("user = \"app\"", "", "monitor.user: is missing; write for example user = \"causeway\""),
    (
        "password = \"app\"",
        "password = \"app\"\npassword_env = \"X\"",
        "give one of password, password_file and password_env",
    ),
    (
        "password = \"app\"",
        "password_env = \"X\"",
        "line 12: monitor.password_env: the environment has no variable X",
    ),
    ("password = \"app\"", "password_file = \"none\"", "cannot read /base/none"),
    (
        "password = \"app\"",
        "password = \"SCRAM-SHA-256$1\"",
        "looks like a SCRAM verifier but is not one",
    ),
    ("name = \"app\"", "", "line 28: user.name: is missing; write for example name = \"app\""),
    ("[[user]]", "[user]", "user: must be tables, each written [[user]]"),
    ("[pool]", "[[pool]]", "pool: must be a table, written [pool]"),
    ("[[user]]", "[[user]]\nname = \"app\"\n[[user]]", "user.name: \"app\" is given twice"),
    ("[[user]]", "[[routing.rule]]\nuser = \"x\"\n[[user]]", "routing.rule: does nothing"),
    (
        "[[user]]",
        "[[routing.rule]]\ntarget = \"node:x\"\n[[user]]",
        "no node is called \"x\"; the nodes are 127.0.0.1:15432",
    ),
    ("[[user]]", "[[routing.rule]]\ntarget = \"zone:x\"\n[[user]]", "no node is in a zone \"x\""),
    ("[[user]]", "[[routing.rule]]\ntarget = \"best\"\n[[user]]", "\"best\" is not a target"),
    (
        "[pool]",
        "[tls]\nmode = \"require\"\nkey = \"k\"\n[pool]",
        "tls.certificate: is missing; write for example certificate = \"causeway.crt\"",
    ),
    ("[pool]", "[tls]\nmode = \"allow\"\n[pool]", "line 20: tls.key: is missing"),
    ("[pool]", "[tls]\ncertificate = \"c\"\n[pool]", "line 20: tls.key: is missing"),
    (
        "[pool]",
        "[tls]\nmode = \"verify-full\"\ncertificate = \"c\"\nkey = \"k\"\n[pool]",
        "tls.client_root: is missing; write for example client_root = \"clients.crt\"",
    ),
    (
        "[pool]",
        "[tls]\nmode = \"prefer\"\n[pool]",
        "tls.mode: \"prefer\" is not one of disable, allow, require, verify-full",
    ),
    ("[pool]", "[[tls.name]]\nuser = \"x\"\n[pool]", "tls.name.certificate: is missing"),
    (
        "[pool]",
        "[node_tls]\nmode = \"verify-ca\"\n[pool]",
        "line 20: node_tls.root: is missing; write for example root = \"nodes.crt\"",
    ),
    (
        "[pool]",
        "[node_tls]\nmode = \"require\"\nroot = \"r\"\n[pool]",
        "node_tls.root: is not looked at with mode = \"require\"; take it out, or choose verify-ca",
    ),
    (
        "[pool]",
        "[tls]\nmode = \"allow\"\ncertificate = \"c\"\nkey = \"k\"\nclient_crl = \"l\"\n[pool]",
        "line 23: tls.client_root: is missing",
    ),
    (
        "[pool]",
        "[node_tls]\ncrl = \"l\"\n[pool]",
        "line 20: node_tls.crl: is not looked at with mode = \"prefer\"; take it out",
    ),
    ("[pool]", "[node_tls]\nkey = \"k\"\n[pool]", "line 20: node_tls.certificate: is missing"),
    ("[pool]", "[pool", "line 19: not valid TOML"),
    ("size = 20", "size = 20\nsize = 21", "not valid TOML: duplicate key"),
];

#[test]
fn what_is_wrong_is_said_in_words_that_help() {
    for (from, to, wanted) in REFUSED {
        let text = complaints(with(from, to));
        assert!(text.contains(wanted), "{to}\n  says:   {text}\n  wanted: {wanted}");
    }
}

#[test]
fn a_password_in_plain_is_no_way_to_let_all_nodes_ask() {
    let only = "[node_tls]\nmode = \"require\"\nrequire_auth = [\"password\"]\n[pool]";
    read(&ISSUE.replace("[pool]", only)).expect("these are on this machine");
    let far = ISSUE.replace("127.0.0.1:15433", "db:15433");
    let text = complaints(read(&far.replace("[pool]", only)));
    let wanted =
        "line 21: node_tls.require_auth: lets db:15433 ask for nothing that it may be told";
    assert!(text.contains(wanted) && text.contains("verify-full"), "{text}");
    let more = only.replace("[\"password\"]", "[\"password\", \"scram-sha-256\"]");
    read(&far.replace("[pool]", &more)).expect("it may ask for something");
}

#[test]
fn a_file_without_nodes_or_users_is_refused() {
    let text = complaints(read("[monitor]\nuser = \"x\"\n"));
    assert!(text.contains("cluster.nodes: names no node"), "{text}");
    assert!(text.contains("user: there is none, so nobody could log in"), "{text}");
}

#[test]
fn all_problems_are_told_at_once_and_in_the_files_order() {
    let text = ISSUE
        .replace("workers = 2", "workers = \"two\"")
        .replace("interval = \"250ms\"", "intervall = \"250ms\"")
        .replace("wait = \"10s\"", "wait = 10");
    let error = read(&text).unwrap_err();
    let keys: Vec<_> = error.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["proxy.workers", "monitor.intervall", "pool.wait"]);
    assert!(error.to_string().starts_with("the settings: 3 problems\n  line 5: "), "{error}");
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_shipped_file_is_valid() {
    for name in ["minimal.toml", "compose.toml", "production.toml", "reference.toml"] {
        parse_with(&shipped(name), Path::new("/base"), &|_| Some("secret".to_owned()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let minimal = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/minimal.toml");
    assert_eq!(load(&minimal).unwrap().nodes.len(), 3);
    let missing = format!("{:#}", anyhow::Error::new(load(Path::new("no/such.toml")).unwrap_err()));
    assert_eq!(missing.matches("No such file").count(), 1, "{missing}");
    assert!(missing.starts_with("cannot read no/such.toml: "), "{missing}");
}

#[test]
fn the_reference_explains_every_key() {
    let reference = shipped("reference.toml");
    for table in shape::tables() {
        let header = match (table.path, table.repeated) {
            ("", _) => continue,
            (path, true) => format!("[[{path}]]"),
            (path, false) => format!("[{path}]"),
        };
        let body: Vec<_> = reference
            .lines()
            .skip_while(|line| *line != header)
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .map(|line| line.trim_start_matches("# "))
            .collect();
        assert!(!body.is_empty(), "{header} is missing");
        for key in table.keys {
            let inner = format!("[[{}.{key}]]", table.path);
            let there = body.iter().any(|line| line.starts_with(&format!("{key} = ")))
                || reference.contains(&inner);
            assert!(there, "{header} {key} is not explained");
        }
    }
}

/// The file as it is read, before anything is checked, must not show what stands in it either.
#[test]
fn no_password_shows_in_the_shape_of_the_file() {
    let text = "[monitor]\nuser = \"m\"\npassword = \"hidden one\"\n\
                [auth_query]\nuser = \"a\"\npassword = \"hidden two\"\n\
                [[user]]\nname = \"u\"\npassword = \"hidden three\"\n";
    let file: super::file::File = toml::from_str(text).unwrap();
    let shown = format!("{file:?}");
    assert!(shown.contains("Secret(***)") && !shown.contains("hidden"), "{shown}");
}

#[test]
fn names_are_cut_as_those_of_logins_are() {
    let long = "n".repeat(70);
    let text = format!(
        "cluster.nodes = [\"a\"]\nmonitor.user = \"m\"\n[[user]]\nname = \"{long}\"\n\
         [[access]]\nfrom = \"all\"\nuser = [\"{long}\", \"x\"]\ndatabase = \"{long}\"\n\
         method = \"scram-sha-256\"\n[[routing.rule]]\nuser = \"{long}\"\ndatabase = \"{long}\"\n\
         target = \"primary\"\n"
    );
    let settings: Settings = super::parse(&text, Path::new("/")).unwrap();
    let cut = &long[..63];
    assert_eq!(settings.users[0].name, cut);
    assert_eq!(settings.access[0].users, [cut, "x"]);
    assert_eq!(settings.access[0].databases, [cut]);
    let rule = &settings.routing.rules[0];
    assert_eq!((rule.user.as_deref(), rule.database.as_deref()), (Some(cut), Some(cut)));
    let twice = format!("{text}[[user]]\nname = \"{long}x\"\n");
    assert!(super::parse(&twice, Path::new("/")).is_err(), "two names that are one");
}
