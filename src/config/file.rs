//! The shape of the file: which keys there are, and what type each wants. No defaults and no checks.
//!
//! `config/reference.toml` explains every key that stands here; a test holds the two together.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::settings::{
    Balance, Consistency, LogFormat, Method, NodeTlsMode, PoolMode, Secret, TlsMode,
};
use super::value::{Bytes, Key, OneOf, OneOrMany};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct File {
    pub proxy: ProxySection,
    pub cluster: ClusterSection,
    pub monitor: MonitorSection,
    pub pool: PoolSection,
    pub routing: RoutingSection,
    pub limits: LimitsSection,
    pub tls: TlsSection,
    pub node_tls: NodeTlsSection,
    pub access: Vec<Spanned<AccessTable>>,
    pub auth_query: AuthQuerySection,
    pub user: Vec<Spanned<UserTable>>,
}

/// `[proxy]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct ProxySection {
    pub listen: Key<OneOrMany>,
    pub http: Key<String>,
    pub workers: Key<u64>,
    pub log_format: Key<OneOf<LogFormat>>,
    pub drain_timeout: Key<Duration>,
    pub proxy_protocol_from: Key<OneOrMany>,
}

/// `[cluster]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct ClusterSection {
    pub nodes: Key<Vec<String>>,
    pub node: Vec<Spanned<NodeTable>>,
}

/// `[[cluster.node]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct NodeTable {
    pub name: Key<String>,
    pub address: Key<String>,
    pub weight: Key<u64>,
    pub zone: Key<String>,
}

/// `[monitor]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct MonitorSection {
    pub user: Key<String>,
    pub password: Key<Secret>,
    pub password_file: Key<String>,
    pub password_env: Key<String>,
    pub database: Key<String>,
    pub interval: Key<Duration>,
    pub timeout: Key<Duration>,
    pub max_lag: Key<Duration>,
    pub max_lag_bytes: Key<Bytes>,
    pub readmit_lag: Key<Duration>,
    pub readmit_after: Key<u64>,
}

/// `[pool]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct PoolSection {
    pub mode: Key<OneOf<PoolMode>>,
    pub size: Key<u64>,
    pub wait: Key<Duration>,
    pub idle_timeout: Key<Duration>,
    pub max_age: Key<Duration>,
    pub connect_timeout: Key<Duration>,
    pub prepared_statements: Key<u64>,
    pub queue: Key<u64>,
}

/// `[routing]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct RoutingSection {
    pub consistency: Key<OneOf<Consistency>>,
    pub balance: Key<OneOf<Balance>>,
    pub primary_reads: Key<bool>,
    pub catchup_wait: Key<Duration>,
    pub safe_functions: Key<Vec<String>>,
    pub rule: Vec<Spanned<RuleTable>>,
}

/// `[[routing.rule]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct RuleTable {
    pub name: Key<String>,
    pub user: Key<String>,
    pub database: Key<String>,
    pub application_name: Key<String>,
    pub table: Key<String>,
    pub function: Key<String>,
    pub statement: Key<String>,
    pub target: Key<String>,
    pub max_lag: Key<Duration>,
    pub consistency: Key<OneOf<Consistency>>,
    pub query_timeout: Key<Duration>,
    pub transaction_timeout: Key<Duration>,
    pub idle_in_transaction_timeout: Key<Duration>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct LimitsSection {
    pub clients: Key<u64>,
    pub clients_per_user: Key<u64>,
    pub clients_per_database: Key<u64>,
    pub clients_per_address: Key<u64>,
    pub logins: Key<u64>,
    pub refusals: Key<u64>,
    pub http_connections: Key<u64>,
    pub memory: Key<Bytes>,
    pub startup_timeout: Key<Duration>,
    pub startup_packet: Key<Bytes>,
    pub message: Key<Bytes>,
    pub pipeline: Key<Bytes>,
    pub statement: Key<Bytes>,
    pub query_timeout: Key<Duration>,
    pub transaction_timeout: Key<Duration>,
    pub idle_in_transaction_timeout: Key<Duration>,
    pub idle_timeout: Key<Duration>,
    pub session_keys: Key<u64>,
}

/// `[[access]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct AccessTable {
    pub from: Key<OneOrMany>,
    pub user: Key<OneOrMany>,
    pub database: Key<OneOrMany>,
    pub tls: Key<bool>,
    pub method: Key<OneOf<Method>>,
}

/// `[auth_query]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct AuthQuerySection {
    pub user: Key<String>,
    pub password: Key<Secret>,
    pub password_file: Key<String>,
    pub password_env: Key<String>,
    pub database: Key<String>,
    pub query: Key<String>,
    pub keep: Key<Duration>,
}

/// `[tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct TlsSection {
    pub mode: Key<OneOf<TlsMode>>,
    pub certificate: Key<String>,
    pub key: Key<String>,
    pub client_root: Key<String>,
    pub client_crl: Key<String>,
    pub name: Vec<Spanned<CertificateNameTable>>,
}

/// `[[tls.name]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct CertificateNameTable {
    pub certificate: Key<String>,
    pub user: Key<String>,
}

/// `[node_tls]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct NodeTlsSection {
    pub mode: Key<OneOf<NodeTlsMode>>,
    pub root: Key<String>,
    pub crl: Key<String>,
    pub certificate: Key<String>,
    pub key: Key<String>,
    pub require_auth: Key<OneOrMany>,
}

/// `[[user]]`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "config/reference.toml documents every key")]
pub struct UserTable {
    pub name: Key<String>,
    pub password: Key<Secret>,
    pub password_file: Key<String>,
    pub password_env: Key<String>,
    pub pool_size: Key<u64>,
    pub query_timeout: Key<Duration>,
    pub transaction_timeout: Key<Duration>,
    pub idle_in_transaction_timeout: Key<Duration>,
}
