//! From a login to a session: the settings of the start-up packet, what the server would have
//! reported of them, and the first ReadyForQuery.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use super::driver::Session;
use super::failure::Failure;
use super::machine::Machine;
use super::options::{self, Fault};
use super::pins::Pin;
use super::relay;
use super::settings::{SessionSettings, Start};
use super::shared::Shared;
use super::step::Question;
use crate::client::{ClientConn, Welcome};
use crate::config::settings::PoolMode;
use crate::pool::pools::Greeting;
use crate::protocol::response::Event;
use crate::protocol::{ErrorReport, write};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};

/// Why a client that proved who it is got no session.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// Its start-up options make no sense, or no server took them.
    #[error("the session could not begin")]
    Refused(#[source] Box<ErrorReport>),
    /// It is gone.
    #[error("the client left")]
    Client(#[from] std::io::Error),
}

impl Session {
    /// Makes a session for a client that has logged in, and tells it so; or tells it why not.
    ///
    /// # Errors
    /// If there is no session. The client has been told.
    pub async fn greet(
        shared: Arc<Shared>,
        worker: usize,
        welcome: Welcome,
    ) -> Result<Self, GreetError> {
        let Welcome { user, database, parameters, protocol_minor, secret, .. } = welcome;
        let mut client = ClientConn::new(welcome.stream, welcome.buffer);
        client.output = welcome.unsent;
        let start = match start_settings(&parameters) {
            Ok(start) => start,
            Err(report) => return Err(refuse(client, report).await),
        };
        let rules = shared.rules.load_full();
        let secret = rules.credentials.server_secret(&user, secret);
        let bounds = Shared::bounds(&rules.settings, &user);
        let account = shared.pools.account(&user, &database, secret, bounds);
        let entry = shared.registry.enter(protocol_minor);
        let machine = Machine::new(
            SessionSettings::new(start),
            shared.statements.clone(),
            rules.settings.pool.prepared_statements,
        );
        let mut session = Self::new(shared, worker, client, machine, account, entry);
        let begun = match session.check_own_settings().await {
            Ok(()) => session.greeting().await.map_err(|failure| failure.report()),
            Err(report) => Err(report),
        };
        let greeting = match begun {
            Ok(greeting) => greeting,
            Err(report) => {
                let report = ErrorReport { severity: "FATAL".into(), ..report };
                return Err(refuse(session.client, report).await);
            }
        };
        session.eyes.follow();
        session.adopt_options();
        if rules.settings.pool.mode == PoolMode::Session {
            session.machine.pin(Pin::SessionMode);
        }
        let out = &mut session.client.output;
        out.extend_from_slice(&greeting.notices);
        for (name, value) in &greeting.parameters {
            session.machine.on_parameter(name, value);
            write::parameter_status(out, name, value);
        }
        write::backend_key_data(out, session.entry.process_id, &session.entry.secret);
        write::ready_for_query(out, b'I');
        session.client.flush().await?;
        Ok(session)
    }

    /// Refuses start-up options of Causeway's own that mean nothing, or speak of the future.
    async fn check_own_settings(&mut self) -> Result<(), ErrorReport> {
        loop {
            match options::check_all(self.machine.settings.floor(), self.machine.furthest) {
                Ok(()) => return Ok(()),
                Err(Fault::Refused(report)) => return Err(report),
                Err(Fault::Unknown) => {
                    let asked = self.consult(Question::Furthest).await;
                    asked.map_err(|failure| failure.report())?;
                }
            }
        }
    }

    /// What a server with the session's settings reports, and what it remarks on them. Known after the
    /// first login of its kind; else a server is asked, which also tells whether the database exists.
    async fn greeting(&mut self) -> Result<Arc<Greeting>, Failure> {
        let laid = self.machine.settings.committed().clone();
        if let Some((settings, known)) = self.account.greeting_with(&laid) {
            self.machine.settings.share(&settings);
            return Ok(known);
        }
        let mut decision = Decision::primary(Reason::Set);
        if self.shared.cluster.load().primary.is_none() {
            decision.target = Target::Replica;
        }
        self.acquire(&mut decision, Instant::now()).await?;
        let Some(server) = self.lease.as_mut() else { return Err(Failure::NoPrimary) };
        server.responses.begin();
        server.output.clear();
        let mut notices = BytesMut::new();
        let reported = if self.machine.compose_settings_anew(server) {
            server.responses.show_own_notices();
            relay::settle(server, &mut notices).await.map_err(|_| Failure::ServerLost)?;
            if let Some(report) = server.responses.own_failure() {
                let report = report.clone();
                self.drop_lease();
                return Err(Failure::Setting(Box::new(report)));
            }
            server.responses.events().collect()
        } else {
            Vec::new()
        };
        let base = self.account.greeting().ok_or(Failure::NoPrimary)?;
        let mut parameters = (*base).clone();
        for event in reported {
            if let Event::Parameter(name, value) = event {
                match parameters.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = value,
                    None => parameters.push((name, value)),
                }
            }
        }
        if let Some((_, standby)) =
            parameters.iter_mut().find(|(name, _)| &name[..] == b"in_hot_standby")
        {
            *standby = (*b"off").into();
        }
        let epoch = self.shared.cluster.topology().node(server.identity.node).epoch;
        self.entry.slot.rests();
        if let Some(lease) = self.lease.take() {
            lease.give_back(epoch);
        }
        let notices = notices[..].into();
        Ok(self.account.set_greeting_with(&laid, Greeting { notices, parameters }))
    }
}

async fn refuse(mut client: ClientConn, report: ErrorReport) -> GreetError {
    report.encode(&mut client.output);
    match client.flush().await {
        Ok(()) => GreetError::Refused(Box::new(report)),
        Err(error) => GreetError::Client(error),
    }
}

/// The settings in a start-up packet: the switches in `options`, then its parameters. As in
/// PostgreSQL the parameters win, for they are read later.
fn start_settings(parameters: &[(String, String)]) -> Result<Start, ErrorReport> {
    let options = parameters.iter().find(|(name, _)| name == "options");
    let mut start = switches(options.map_or("", |(_, value)| value))?;
    let named = parameters.iter().filter(|(name, _)| name != "options");
    start.extend(named.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
    Ok(start.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

/// `-c name=value`, `-cname=value` and `--name=value`, words split at white space that no backslash
/// precedes (PostgreSQL's `pg_split_opts`; dashes in a name stand for underscores).
fn switches(options: &str) -> Result<Vec<(String, String)>, ErrorReport> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        if character.is_ascii_whitespace() {
            words.extend(word.take());
        } else if character == '\\' {
            word.get_or_insert_default().extend(characters.next());
        } else {
            word.get_or_insert_default().push(character);
        }
    }
    words.extend(word);
    let mut found = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => setting.to_owned(),
            None => match word.strip_prefix("-c") {
                Some("") => words.next().unwrap_or_default(),
                Some(setting) => setting.to_owned(),
                None => {
                    let message =
                        format!("invalid command-line argument for server process: {word}");
                    return Err(ErrorReport::fatal("42601", message));
                }
            },
        };
        let Some((name, value)) = setting.split_once('=') else {
            let message = format!("-c {setting} requires a value");
            return Err(ErrorReport::fatal("42601", message));
        };
        found.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Laid;

    #[test]
    fn switches_are_read_as_postgresql_reads_them() {
        let read = |options: &str| switches(options).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(""), []);
        assert_eq!(
            read(" -c geqo=off  -cwork_mem=4MB --statement-timeout=5s "),
            [pair("geqo", "off"), pair("work_mem", "4MB"), pair("statement_timeout", "5s")]
        );
        assert_eq!(
            read(r"-c search_path=a,\ b -c x.y=\\"),
            [pair("search_path", "a, b"), pair("x.y", r"\")]
        );
        for wrong in ["-x", "word", "-c", "-c name", "--name"] {
            assert!(switches(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parameters_win_over_options() {
        let parameters = [
            ("TimeZone".to_owned(), "UTC".to_owned()),
            ("options".to_owned(), "-c timezone=CET -c a.b=1".to_owned()),
        ];
        let settings = SessionSettings::new(start_settings(&parameters).unwrap());
        let expected = Laid::default().with_value("timezone", "UTC").with_value("a.b", "1");
        assert_eq!(settings.committed(), &expected);
        assert_eq!(settings.start_value("timezone"), Some("UTC"));
    }
}
