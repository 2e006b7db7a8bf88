//! `causeway check`: is the file right, and, with `--connect`, are the nodes?
//!
//! Says what was understood, what is wrong and how to mend it. Changes nothing anywhere.

mod access;
mod advice;
mod look;
mod tls;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::config;
use crate::config::settings::{
    Balance, Consistency, Listen, PoolMode, Settings, User, UserPassword,
};
use crate::proxy::resources;
use crate::routing::rule_problems;
use crate::sql::{self, Lexis};
use advice::Finding;

/// Arguments of `causeway check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  causeway check --config causeway.toml
  causeway check --config causeway.toml --connect   # before a start or a reload

Exit code: 0 if all is well (there may be notes), 1 if something is wrong, 2 for usage.")]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Also look at every node: role, lag, version, logins, room for the pools
    #[arg(long)]
    pub connect: bool,
}

/// Runs the check and prints what it found.
///
/// # Errors
/// When the file cannot be used, with everything that is wrong with it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let settings = config::load(&arguments.config)?;
    println!("{} is valid.\n\n{}", arguments.config.display(), summary(&settings));
    let mut findings = in_file(&arguments.config, &settings);
    let connector = tls::load(&settings, &mut findings);
    if let Some(connector) = connector.filter(|_| arguments.connect) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let looked = runtime.block_on(look::at_all(&settings, &connector));
        print!("{}", looked.table);
        findings.extend(looked.findings);
    }
    for finding in &findings {
        println!("{finding}");
    }
    let wrong = findings.iter().filter(|finding| finding.is_wrong()).count();
    if wrong > 0 {
        println!("\n{wrong} {} to mend.", if wrong == 1 { "thing" } else { "things" });
        return Ok(ExitCode::FAILURE);
    }
    if arguments.connect {
        println!("All is well.");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is no error in the file, but deserves a word.
fn in_file(path: &Path, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    let has_passwords = settings.monitor.password.is_some()
        || settings.users.iter().any(|user| user.password.is_some());
    if has_passwords && mode & 0o004 != 0 {
        findings.push(Finding::note(format!(
            "everybody on this machine may read {0}; if it holds passwords: chmod o-r {0}",
            path.display()
        )));
    }
    let files = resources::files(settings);
    if files.are_short() {
        findings.push(Finding::note(format!(
            "{} files may be open, and clients and servers may need {}; raise RLIMIT_NOFILE (ulimit -n, \
             LimitNOFILE= of systemd) or lower limits.clients",
            files.allowed, files.needed
        )));
    }
    findings.extend(access::findings(settings));
    let read = |example: &str| sql::analyze(example.as_bytes(), Lexis::default());
    let problems = rule_problems(&settings.routing.rules, read);
    findings.extend(problems.iter().map(|problem| Finding::wrong(problem.to_string())));
    for user in &settings.users {
        match user.password {
            None if settings.auth_query.is_some() => {}
            None => findings.push(Finding::wrong(format!(
                "user {} has no password and could never log in; give it one",
                user.name
            ))),
            Some(UserPassword::Verifier(_)) => findings.push(Finding::note(format!(
                "user {} has a verifier only: its clients' own proofs open servers, on nodes that keep the \
                 same verifier (pg_authid.rolpassword) and ask for scram-sha-256",
                user.name
            ))),
            Some(UserPassword::Md5(_)) => findings.push(Finding::note(format!(
                "user {} has an md5 hash, with which whoever reads it can log in; let the role have a \
                 SCRAM verifier (password_encryption = 'scram-sha-256')",
                user.name
            ))),
            Some(UserPassword::Plain(_)) => {}
        }
    }
    findings
}

/// What was understood, for people.
fn summary(settings: &Settings) -> String {
    let mut text = String::new();
    let mut line = |title: &str, body: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{title:<9}{body}");
    };
    let proxy = &settings.proxy;
    let listen: Vec<_> = proxy.listen.iter().map(shown).collect();
    let http = proxy.http.map_or("nowhere".to_owned(), |address| format!("on {address}"));
    line("clients", format!("on {}, at most {}", listen.join(", "), settings.limits.clients));
    line("http", http);
    line("workers", proxy.workers.to_string());
    for node in &settings.nodes {
        let address = node.address.to_string();
        let name = if *node.name == *address { String::new() } else { format!("{} ", node.name) };
        let zone = node.zone.as_ref().map_or(String::new(), |zone| format!(", zone {zone}"));
        line("node", format!("{name}{address}, weight {}{zone}", node.weight));
    }
    let monitor = &settings.monitor;
    let bytes = monitor
        .max_lag_bytes
        .map_or(String::new(), |bytes| format!(" or {} of WAL", bytesize::ByteSize(bytes)));
    line(
        "monitor",
        format!(
            "as {} to database {}, every {}; a replica is ejected over {} of lag{bytes}, and back under \
             {} {} times in a row",
            monitor.user,
            monitor.database,
            time(monitor.interval),
            time(monitor.max_lag),
            time(monitor.readmit_lag),
            monitor.readmit_after
        ),
    );
    let pool = &settings.pool;
    let mode = match pool.mode {
        PoolMode::Transaction => "by transaction",
        PoolMode::Session => "by session",
    };
    line(
        "pool",
        format!(
            "{mode}, {} servers per user, database and node; a client waits up to {} for one",
            pool.size,
            time(pool.wait)
        ),
    );
    line("tls", tls::summary(settings));
    line("routing", routing(settings));
    let users: Vec<_> = settings.users.iter().map(|user| shown_user(user, pool.size)).collect();
    if settings.auth_query.is_some() || !users.is_empty() {
        let looked_up = settings.auth_query.as_ref().map(|query| {
            format!("whom auth_query finds (as {} in {})", query.user, query.database)
        });
        line("users", users.into_iter().chain(looked_up).collect::<Vec<_>>().join(", "));
    }
    for rule in access::explain(settings) {
        line("access", rule);
    }
    text
}

fn routing(settings: &Settings) -> String {
    let routing = &settings.routing;
    let consistency = match routing.consistency {
        Consistency::Eventual => "eventual",
        Consistency::Session => "session",
        Consistency::Global => "global",
        Consistency::Primary => "primary (no reads on replicas)",
    };
    let balance = match routing.balance {
        Balance::RoundRobin => "round-robin",
        Balance::Weighted => "weighted",
        Balance::LeastInFlight => "least-in-flight",
        Balance::LowestLatency => "lowest-latency",
    };
    let alone = if routing.primary_reads { "the primary serves reads" } else { "reads fail" };
    let rules = match routing.rules.len() {
        0 => String::new(),
        1 => "; 1 rule".to_owned(),
        many => format!("; {many} rules"),
    };
    format!("consistency {consistency}, {balance}; without a replica {alone}{rules}")
}

fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix { directory, port } => format!("{}/.s.PGSQL.{port}", directory.display()),
    }
}

fn shown_user(user: &User, usual: usize) -> String {
    match user.pool_size.filter(|size| *size != usual) {
        Some(size) => format!("{} ({size} servers)", user.name),
        None => user.name.clone(),
    }
}

fn time(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        proxy.listen = ["127.0.0.1:7000", "/run/pg"]
        cluster.nodes = ["a:1"]
        cluster.node = [{ name = "b", address = "b:2", zone = "z" }]
        monitor = { user = "m", max_lag_bytes = "64MiB" }
        user = [
            { name = "plain", password = "x", pool_size = 5 },
            { name = "none" },
            { name = "verifier", password = "SCRAM-SHA-256$1:AA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" },
        ]
    "#;

    #[test]
    fn the_summary_says_what_was_understood() {
        let settings = config::parse(FILE, Path::new("/")).unwrap();
        let text = summary(&settings);
        for part in [
            "clients  on 127.0.0.1:7000, /run/pg/.s.PGSQL.7000, at most 10000\n",
            "http     nowhere\n",
            "node     a:1, weight 1\n",
            "node     b b:2, weight 1, zone z\n",
            "ejected over 2s of lag or 64.0 MiB of WAL, and back under 500ms 3 times in a row\n",
            "tls      to clients: disable; to nodes: prefer\n",
            "consistency session, round-robin; without a replica the primary serves reads\n",
            "users    plain (5 servers), none, verifier\n",
        ] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
    }

    #[test]
    fn rules_that_can_never_match_are_refused() {
        let rules = r#"
            routing.rule = [
                { name = "all of it", database = "app", target = "primary" },
                { name = "reports", database = "app", user = "reports", target = "replica" },
                { name = "example", table = "t", statement = "select 1 from u", target = "replica" },
                { name = "good", table = "t", target = "replica" },
            ]
        "#;
        let file = format!("{FILE}\n{rules}");
        let settings = config::parse(&file, Path::new("/")).unwrap();
        let said: Vec<_> =
            in_file(Path::new("/none"), &settings).iter().map(ToString::to_string).collect();
        for wrong in [
            "wrong: rule \"reports\" can never match: rule \"all of it\" before it matches all that it does",
            "wrong: rule \"example\" can never match: its example statement does not name the table \"t\"",
        ] {
            assert!(said.iter().any(|said| said == wrong), "{wrong}\nnot in {said:#?}");
        }
        assert!(!said.iter().any(|said| said.contains("\"good\"")), "{said:?}");
    }

    #[test]
    fn users_who_could_not_log_in_are_told_of() {
        let settings = config::parse(FILE, Path::new("/")).unwrap();
        let said: Vec<_> =
            in_file(Path::new("/none"), &settings).iter().map(ToString::to_string).collect();
        let said: Vec<_> = said.into_iter().filter(|said| said.contains("user ")).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("wrong: user none has no password"), "{said:?}");
        assert!(said[1].starts_with("note:  user verifier has a verifier only"), "{said:?}");
    }
}
