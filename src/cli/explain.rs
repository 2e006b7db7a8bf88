//! `causeway explain`: where a statement goes, and why.
//!
//! Decides with the same code as the proxy, over the catalog of a primary that it finds among the
//! nodes itself. Runs none of the statements. The JSON form is a contract: one line out for each
//! line in, in order, with exactly the keys `target`, `reason` and `statement`.

mod report;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::catalog::registry::next_version;
use crate::catalog::{Catalog, Source};
use crate::cluster::probe;
use crate::config::settings::{Address, Monitor, Settings};
use crate::net;
use crate::routing::{Asked, LearnedShapes, Router, SessionView, decide};
use crate::sql::statement::Lexis;
use crate::sql::{self, ScriptCache};
use crate::tls::{Connector, ConnectorCell};
use report::{Report, one_line};

/// A node that does not answer a first question within this time is passed over.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Arguments of `causeway explain`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print; text for one statement and JSON for lines, if not given.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Judge by the text alone: connect to no node, and trust views and tables not to surprise.
    #[arg(long)]
    offline: bool,
    /// The database that the session is in, where a line does not say. The monitor's, if not given.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The session's user, where a line does not say. The monitor's, if not given.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The session's application_name, which rules may ask for.
    #[arg(long, value_name = "NAME", default_value = "")]
    application_name: String,
    /// The statement. Without it, JSON lines {"sql": ..., "database": ..., "user": ...} are read
    /// from standard input; database and user may be left out.
    sql: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people: the facts, and what follows from them.
    Text,
    /// One JSON object a line.
    Json,
}

/// A line of standard input.
#[derive(Debug, Deserialize)]
struct Question {
    #[serde(default)]
    sql: String,
    database: Option<String>,
    user: Option<String>,
}

/// A line of standard output.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    target: &'static str,
    reason: &'static str,
    statement: &'a str,
}

/// Runs it. Exit code 1 when a line could not be read, or a database's catalog not be loaded.
///
/// # Errors
/// When the file is wrong, no primary is found, or standard input or output fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let settings = crate::config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(explain(arguments, &settings))
}

async fn explain(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut explainer = Explainer::new(settings, arguments).await?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if let Some(sql) = &arguments.sql {
        let question = Question { sql: sql.clone(), database: None, user: None };
        explainer.answer(&question, arguments.format.unwrap_or(Format::Text), &mut out).await?;
    } else {
        let format = arguments.format.unwrap_or(Format::Json);
        let mut lines = std::io::BufReader::new(std::io::stdin().lock());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            match serde_json::from_slice::<Question>(&line) {
                Ok(question) => explainer.answer(&question, format, &mut out).await?,
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(error) => {
                    explainer.failed = true;
                    let message = format!("not a question: {error}");
                    writeln!(out, "{}", serde_json::json!({ "error": message }))?;
                }
            }
            line.clear();
            // Whoever asks line by line waits for the answer.
            if lines.buffer().is_empty() {
                out.flush()?;
            }
        }
    }
    out.flush()?;
    Ok(if explainer.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What came of loading a database's catalog.
#[derive(Default)]
struct Known {
    catalog: Option<Catalog>,
    /// There is no such database: nothing in it can say more than the text.
    absent: bool,
}

/// What is kept between questions.
struct Explainer<'a> {
    settings: &'a Settings,
    arguments: &'a Arguments,
    router: Router,
    scripts: ScriptCache,
    /// `None` when offline.
    source: Option<Source>,
    catalogs: HashMap<String, Known>,
    failed: bool,
}

impl<'a> Explainer<'a> {
    async fn new(settings: &'a Settings, arguments: &'a Arguments) -> anyhow::Result<Self> {
        let source = if arguments.offline {
            None
        } else {
            let connector = Connector::load(&settings.node_tls)?;
            let primary = find_primary(settings, &connector).await?;
            let monitor = &settings.monitor;
            let primary = Arc::new(move || Some(primary.clone()));
            Some(Source::new(
                &monitor.user,
                monitor.password.as_ref(),
                ConnectorCell::new(connector),
                primary,
            ))
        };
        let shape_of = |example: &str| sql::analyze(example.as_bytes(), Lexis::default()).shape;
        Ok(Self {
            settings,
            arguments,
            router: Router::new(&settings.routing, Arc::new(LearnedShapes::default()), shape_of),
            scripts: ScriptCache::new(4096),
            source,
            catalogs: HashMap::new(),
            failed: false,
        })
    }

    async fn answer(
        &mut self,
        question: &Question,
        format: Format,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let monitor = &self.settings.monitor;
        let by_argument = |one: &'a Option<String>, usual: &'a str| one.as_deref().unwrap_or(usual);
        let database = by_argument(&self.arguments.database, &monitor.database);
        let database = question.database.as_deref().unwrap_or(database);
        let user = by_argument(&self.arguments.user, &monitor.user);
        self.load(database).await;
        let catalog = self.catalogs.get(database).and_then(|known| known.catalog.as_ref());
        let view = SessionView {
            catalog,
            database,
            user: question.user.as_deref().unwrap_or(user),
            application_name: &self.arguments.application_name,
            search_path: None,
            route: None,
            consistency: None,
            max_lag: None,
            default_isolation_serializable: false,
            names_are_utf8: true,
            temp_names_possible: false,
        };
        let script = self.scripts.script(question.sql.as_bytes(), Lexis::default());
        let catalog_needed = self.catalogs.get(database).is_some_and(|known| !known.absent);
        let asked = Asked { catalog_needed, ..self.router.asked(&view) };
        let decision = decide(&script, &asked);
        match format {
            Format::Json => {
                let answer = Answer {
                    target: decision.target.as_str(),
                    reason: decision.reason.as_str(),
                    statement: &one_line(&question.sql),
                };
                serde_json::to_writer(&mut *out, &answer)?;
                writeln!(out)?;
            }
            Format::Text => {
                let offline = self.source.is_none();
                let text = Report { sql: &question.sql, script: &script, asked: &asked, offline };
                text.write(decision, out)?;
            }
        }
        Ok(())
    }

    /// Loads the database's catalog if this is the first question about it.
    async fn load(&mut self, database: &str) {
        let Some(source) = &self.source else { return };
        if self.catalogs.contains_key(database) {
            return;
        }
        let loaded = async { source.connect(database).await?.load(next_version()).await }.await;
        let known = match loaded {
            Ok(catalog) => Known { catalog: Some(catalog), absent: false },
            Err(error) => {
                let absent = error.is_absent_database();
                self.failed |= !absent;
                let error = anyhow::Error::new(error);
                eprintln!("causeway: database \"{database}\": {error:#}");
                Known { catalog: None, absent }
            }
        };
        self.catalogs.insert(database.to_owned(), known);
    }
}

/// The first node that is not in recovery.
async fn find_primary(settings: &Settings, connector: &Connector) -> anyhow::Result<Address> {
    let mut refusals = Vec::new();
    for node in &settings.nodes {
        let asked = is_primary(&node.address, &settings.monitor, connector);
        let asked = tokio::time::timeout(ASK_LIMIT, asked);
        match asked.await {
            Ok(Ok(true)) => return Ok(node.address.clone()),
            Ok(Ok(false)) => refusals.push(format!("{}: a replica", node.name)),
            Ok(Err(error)) => {
                refusals.push(format!("{}: {:#}", node.name, anyhow::Error::new(error)));
            }
            Err(_) => refusals.push(format!("{}: no answer", node.name)),
        }
    }
    Err(anyhow::anyhow!("{}", refusals.join("; ")))
        .context("found no primary for the catalog (--offline does without)")
}

async fn is_primary(
    address: &Address,
    monitor: &Monitor,
    connector: &Connector,
) -> Result<bool, tokio_postgres::Error> {
    let config = probe::login(monitor, connector, address, &monitor.database, "causeway explain");
    let (client, connection) = net::postgres::open(&config, connector).await?;
    let connection = tokio::spawn(connection);
    let asked = client.query_one("select not pg_catalog.pg_is_in_recovery()", &[]).await;
    drop(client);
    let _ = connection.await;
    asked?.try_get(0)
}
