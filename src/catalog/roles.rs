//! Roles that the file does not have, looked up in the database (`[auth_query]`).
//!
//! Owns the query, what is believed of its answers and for how long. The query runs on a connection of
//! Causeway's own, as a role of the operator's, with a `search_path` that no client can touch. An answer is
//! kept for `keep`, and no longer than until a login that relied on it failed, or until a statement about
//! roles passes by: a password that has just been changed works at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Timestamp, Type};

use super::answers::Answers;
use super::lookups::LookUps;
use super::source::{LoadError, NodeToAsk, Source};
use crate::auth::role::{Kept, Role};
use crate::auth::throttle::source;
use crate::config::settings::AuthQuery;
use crate::tls::ConnectorCell;

/// So many connections ask at once.
const CONNECTIONS: usize = 4;

/// Why a role could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookUpError {
    /// The database did not answer.
    #[error("auth_query could not be run")]
    Query(#[from] LoadError),
    /// It answered something else than a role.
    #[error(
        "auth_query must return rolpassword (or passwd) and rolvaliduntil (or valuntil), and may return \
         rolname (or usename) and rolcanlogin: {0}"
    )]
    Columns(&'static str),
    /// It returned more than one row.
    #[error("auth_query returned {0} rows for one name")]
    Rows(usize),
}

/// Looks roles up.
#[derive(Debug)]
pub struct Roles {
    source: Source,
    settings: AuthQuery,
    answers: Answers,
    look_ups: LookUps,
}

impl Roles {
    /// Asks the node that `node` names, by way of `connector`.
    #[must_use]
    pub fn new(settings: &AuthQuery, connector: ConnectorCell, node: NodeToAsk) -> Self {
        let source = Source::new(&settings.user, settings.password.as_ref(), connector, node).named(
            "causeway auth_query",
            "-c statement_timeout=5s -c default_transaction_read_only=on -c search_path=pg_catalog",
        );
        let source = source.with_connections(CONNECTIONS);
        let answers = Answers::new(settings.keep);
        Self { source, settings: settings.clone(), answers, look_ups: LookUps::default() }
    }

    /// What it was made of.
    #[must_use]
    pub fn settings(&self) -> &AuthQuery {
        &self.settings
    }

    /// The role of that name, if there is one; somebody asks from there.
    ///
    /// # Errors
    /// If it is not known and could not be asked for.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn find(
        &self,
        name: &str,
        from: Option<IpAddr>,
    ) -> Result<Option<Arc<Role>>, LookUpError> {
        let came = Instant::now();
        if let Some(known) = self.answers.get(name, came) {
            return Ok(known.role());
        }
        // In this order: who waits among many from its own address holds no name that others want.
        let _place = self.look_ups.turn_from(from.map(source)).await;
        let _turn = self.look_ups.turn_of(name).await;
        if let Some(known) = self.answers.get(name, came) {
            return Ok(known.role());
        }
        let asked = Instant::now();
        let server = self.source.connect(&self.settings.database).await?;
        let rows = server.rows(&self.settings.query, name).await?;
        let role = match &rows[..] {
            [] => None,
            [row] => role_of(row, name)?.map(Arc::new),
            rows => return Err(LookUpError::Rows(rows.len())),
        };
        self.answers.put(name, role.clone(), asked);
        Ok(role)
    }

    /// Whether a challenge by `known` asks for what does not prove the role any more. Asks the database only if a
    /// login has failed on it since.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn is_outdated(
        &self,
        name: &str,
        known: Option<&Arc<Role>>,
        from: Option<IpAddr>,
    ) -> bool {
        if self.answers.holds(name, known) {
            return false;
        }
        match (known, self.find(name, from).await) {
            (Some(known), Ok(Some(role))) => !known.is_proved_like(&role),
            (known, Ok(role)) => known.is_some() != role.is_some(),
            (_, Err(_)) => false,
        }
    }

    /// A client has changed this role, or nobody knows which.
    pub fn forget(&self, name: Option<&str>) {
        self.answers.forget(name);
    }

    /// A login that relied on what is known of this role has failed.
    pub fn doubt(&self, name: &str) {
        self.answers.doubt(name);
    }
}

/// The role in a row, by its columns' names. A query that does not tell until when a password is good
/// is refused: its users could log in for ever.
fn role_of(row: &Row, name: &str) -> Result<Option<Role>, LookUpError> {
    let column = |names: [&str; 2]| row.columns().iter().position(|c| names.contains(&c.name()));
    if let Some(at) = column(["rolname", "usename"]) {
        let found: Option<&str> =
            row.try_get(at).map_err(|_| LookUpError::Columns("the name is no text"))?;
        if found != Some(name) {
            return Err(LookUpError::Columns("it returned another role than was asked for"));
        }
    }
    let Some(at) = column(["rolpassword", "passwd"]) else {
        return Err(LookUpError::Columns("there is no password"));
    };
    let password: Option<&str> =
        row.try_get(at).map_err(|_| LookUpError::Columns("the password is no text"))?;
    let Some(at) = column(["rolvaliduntil", "valuntil"]) else {
        return Err(LookUpError::Columns("it does not tell until when a password is good"));
    };
    let Until(valid_until) = row
        .try_get::<_, Option<Until>>(at)
        .map_err(|_| LookUpError::Columns("the time is no timestamptz"))?
        .unwrap_or(Until(None));
    let can_login = match column(["rolcanlogin", "rolcanlogin"]) {
        Some(at) => row
            .try_get::<_, Option<bool>>(at)
            .map_err(|_| LookUpError::Columns("rolcanlogin is no boolean"))?
            .unwrap_or(false),
        None => true,
    };
    let kept = password.and_then(Kept::parse);
    if password.is_some() && kept.is_none() {
        tracing::warn!(
            role = name,
            "the role's password is kept in a form that is not known, or with more rounds than are done here"
        );
    }
    Ok(Some(Role { kept, valid_until, can_login }))
}

/// A `VALID UNTIL`; `None` is infinity.
struct Until(Option<SystemTime>);

impl<'a> FromSql<'a> for Until {
    fn from_sql(
        kind: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(match Timestamp::<SystemTime>::from_sql(kind, raw)? {
            Timestamp::PosInfinity => None,
            Timestamp::NegInfinity => Some(SystemTime::UNIX_EPOCH),
            Timestamp::Value(time) => Some(time),
        }))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}
