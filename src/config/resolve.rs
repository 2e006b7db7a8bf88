//! From the file's shape to checked [`Settings`]: defaults, ranges, passwords, and the checks that
//! hold one key against another.
//!
//! Every complaint is noted and the reading goes on, so that the operator sees all of them at once.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::address::{node_address, socket_address};
use super::error::{Complaint, Problem};
use super::file::{
    ClusterSection, File, LimitsSection, MonitorSection, NodeTable, PoolSection, ProxySection,
    UserTable,
};
use super::password::PasswordKeys;
use super::reader::{Reader, Span};
use super::settings::{
    Address, Limits, Listen, LogFormat, Monitor, Node, Pool, PoolMode, Proxy, Settings, TimeLimits,
    User, UserPassword,
};
use super::value::{Bytes, Key, OneOrMany, Word, cut_name};

/// Where clients connect if the file does not say; the port is `PgBouncer`'s, which people expect.
const DEFAULT_LISTEN: &str = "127.0.0.1:6432";
const DEFAULT_PORT: u16 = 6432;
/// PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT` (`MaxAllocSize`, 1 GiB - 1).
const LARGEST_MESSAGE: u64 = 0x3FFF_FFFF;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const MILLISECOND: Duration = Duration::from_millis(1);

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Word for PoolMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("transaction", Self::Transaction), ("session", Self::Session)];
}

/// Checks `file` and adds what is wrong with it to `problems`. The result is meaningful only while
/// that stays empty.
pub(super) fn resolve(
    text: &str,
    base_dir: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    file: File,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let mut reader = Reader { text, base_dir, environment, problems };
    let proxy = reader.proxy(file.proxy);
    let nodes = reader.nodes(file.cluster);
    let monitor = reader.monitor(file.monitor);
    let pool = reader.pool(file.pool);
    let routing = reader.routing(file.routing, &nodes);
    let limits = reader.limits(file.limits);
    let tls = reader.tls(file.tls);
    let node_tls = reader.node_tls(file.node_tls, &nodes);
    let access = reader.access(file.access);
    let auth_query = reader.auth_query(file.auth_query, monitor.as_ref());
    let users = reader.users(file.user, auth_query.is_some());
    Some(Settings {
        proxy: proxy?,
        nodes,
        monitor: monitor?,
        pool: pool?,
        routing,
        limits: limits?,
        tls,
        node_tls,
        access,
        auth_query,
        users,
    })
}

impl Reader<'_> {
    fn proxy(&mut self, section: ProxySection) -> Option<Proxy> {
        let listen_span = section.listen.span.clone();
        let texts = self
            .optional("proxy.listen", section.listen)
            .unwrap_or_else(|| OneOrMany(vec![DEFAULT_LISTEN.to_owned()]));
        let listen = self.listen(&texts.0, &listen_span);
        let http_span = section.http.span.clone();
        let http = self.optional("proxy.http", section.http).and_then(|text| {
            let address = socket_address(&text);
            if address.is_none() {
                self.complain("proxy.http", &http_span, Complaint::NotASocketAddress { text });
            }
            address
        });
        if let Some(http) = http
            && http.port() != 0
            && listen.contains(&Listen::Tcp(http))
        {
            let text = http.to_string();
            self.complain("proxy.http", &http_span, Complaint::Twice { text });
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Some(Proxy {
            listen,
            http,
            workers: self.count("proxy.workers", section.workers, 1..=1024, cores as u64)?,
            log_format: self.word("proxy.log_format", section.log_format, LogFormat::Text),
            drain_timeout: self.time(
                "proxy.drain_timeout",
                section.drain_timeout,
                Duration::ZERO..=DAY,
                Duration::from_secs(30),
            ),
            proxy_protocol_from: self.networks(section.proxy_protocol_from),
        })
    }

    fn listen(&mut self, texts: &[String], span: &Span) -> Vec<Listen> {
        let port = texts
            .iter()
            .filter(|text| !text.contains('/'))
            .find_map(|text| socket_address(text))
            .map_or(DEFAULT_PORT, |address| address.port());
        let mut seen = HashSet::new();
        let mut listen = Vec::with_capacity(texts.len());
        for text in texts {
            let one = if text.contains('/') {
                Listen::Unix { directory: self.base_dir.join(text), port }
            } else if let Some(address) = socket_address(text) {
                Listen::Tcp(address)
            } else {
                let text = text.clone();
                self.complain("proxy.listen", span, Complaint::NotAListenAddress { text });
                continue;
            };
            // Port 0 asks the kernel for a free port: twice is two ports.
            if !matches!(one, Listen::Tcp(address) if address.port() == 0) {
                self.twice(&mut seen, one.clone(), "proxy.listen", span, text);
            }
            listen.push(one);
        }
        listen
    }

    fn nodes(&mut self, section: ClusterSection) -> Vec<Node> {
        let span = section.nodes.span.clone();
        let empty = section.node.is_empty() && section.nodes.value.is_none();
        let mut found: Vec<(Node, Span, &'static str)> = Vec::new();
        for text in self.optional("cluster.nodes", section.nodes).unwrap_or_default() {
            if let Some(address) = self.node_address("cluster.nodes", text, &span) {
                let name = Arc::from(address.to_string());
                let node = Node { name, address, weight: 1, zone: None };
                found.push((node, span.clone(), "cluster.nodes"));
            }
        }
        for table in section.node {
            let span = Some(table.span());
            if let Some(node) = self.node(table) {
                found.push((node, span, "cluster.node"));
            }
        }
        if found.is_empty() && (empty || span.is_some()) {
            self.complain("cluster.nodes", &span, Complaint::NoNodes);
        }
        let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
        for (node, span, key) in &found {
            let text = node.address.to_string();
            self.twice(&mut addresses, node.address.clone(), key, span, &text);
            if *node.name != *text {
                self.twice(&mut names, Arc::clone(&node.name), key, span, &node.name);
            }
        }
        found.into_iter().map(|(node, _, _)| node).collect()
    }

    fn node(&mut self, table: Spanned<NodeTable>) -> Option<Node> {
        let span = Some(table.span());
        let table = table.into_inner();
        let name = self.optional("cluster.node.name", table.name);
        let weight = self.number("cluster.node.weight", table.weight, 0..=1000, 1);
        let zone = self.optional("cluster.node.zone", table.zone).map(Arc::from);
        let address_span = table.address.span.clone();
        let text = self.required(
            "cluster.node.address",
            table.address,
            &span,
            "address = \"127.0.0.1:5432\"",
        )?;
        let address = self.node_address("cluster.node.address", text, &address_span)?;
        let name = Arc::from(name.unwrap_or_else(|| address.to_string()));
        Some(Node { name, address, weight: u32::try_from(weight).unwrap_or(1), zone })
    }

    fn node_address(&mut self, key: &str, text: String, span: &Span) -> Option<Address> {
        let address = node_address(&text);
        if address.is_none() {
            self.complain(key, span, Complaint::NotANodeAddress { text });
        }
        address
    }

    fn monitor(&mut self, section: MonitorSection) -> Option<Monitor> {
        let user = self.required("monitor.user", section.user, &None, "user = \"causeway\"");
        let keys = PasswordKeys {
            plain: section.password,
            file: section.password_file,
            env: section.password_env,
        };
        let password = self.password("monitor", keys).and_then(|(password, span)| match password {
            UserPassword::Plain(secret) => Some(secret),
            UserPassword::Verifier(_) | UserPassword::Md5(_) => {
                self.complain("monitor.password", &span, Complaint::VerifierForMonitor);
                None
            }
        });
        let database = self.optional("monitor.database", section.database);
        let interval_span = section.interval.span.clone();
        let ms = Duration::from_millis;
        let interval =
            self.time("monitor.interval", section.interval, ms(10)..=ms(60_000), ms(250));
        let timeout = self.time("monitor.timeout", section.timeout, ms(10)..=ms(60_000), ms(1000));
        let max_lag = self.time("monitor.max_lag", section.max_lag, ms(20)..=DAY, ms(2000));
        let readmit_span = section.readmit_lag.span.clone();
        let readmit_default = (max_lag / 4).max(interval).min(max_lag);
        let readmit_lag =
            self.time("monitor.readmit_lag", section.readmit_lag, ms(1)..=DAY, readmit_default);
        if interval >= max_lag {
            let complaint =
                Complaint::NotShorter { value: interval, other: "max_lag", limit: max_lag };
            self.complain("monitor.interval", &interval_span, complaint);
        } else if readmit_lag > max_lag {
            let complaint =
                Complaint::Longer { value: readmit_lag, other: "max_lag", limit: max_lag };
            self.complain("monitor.readmit_lag", &readmit_span, complaint);
        }
        let lag_span = section.max_lag_bytes.span.clone();
        let max_lag_bytes = self.optional("monitor.max_lag_bytes", section.max_lag_bytes);
        if max_lag_bytes == Some(Bytes(0)) {
            let complaint = Complaint::OutOfRange { value: 0, low: 1, high: u64::MAX };
            self.complain("monitor.max_lag_bytes", &lag_span, complaint);
        }
        let after = self.number("monitor.readmit_after", section.readmit_after, 1..=1000, 3);
        Some(Monitor {
            user: user?,
            password,
            database: database.unwrap_or_else(|| "postgres".to_owned()),
            interval,
            timeout,
            max_lag,
            max_lag_bytes: max_lag_bytes.map(|bytes| bytes.0),
            readmit_lag,
            readmit_after: u32::try_from(after).unwrap_or(u32::MAX),
        })
    }

    fn pool(&mut self, section: PoolSection) -> Option<Pool> {
        let seconds = Duration::from_secs;
        Some(Pool {
            mode: self.word("pool.mode", section.mode, PoolMode::Transaction),
            size: self.count("pool.size", section.size, 1..=100_000, 20)?,
            wait: self.time("pool.wait", section.wait, Duration::ZERO..=DAY, seconds(10)),
            idle_timeout: self.time(
                "pool.idle_timeout",
                section.idle_timeout,
                seconds(1)..=YEAR,
                seconds(600),
            ),
            max_age: self.time("pool.max_age", section.max_age, seconds(1)..=YEAR, seconds(3600)),
            connect_timeout: self.time(
                "pool.connect_timeout",
                section.connect_timeout,
                MILLISECOND..=seconds(600),
                seconds(5),
            ),
            prepared_statements: self.count(
                "pool.prepared_statements",
                section.prepared_statements,
                1..=1_000_000,
                500,
            )?,
            queue: self.count("pool.queue", section.queue, 0..=10_000_000, 10_000)?,
        })
    }

    /// A count of which zero, like silence, means none.
    fn bound(&mut self, name: &str, key: Key<u64>) -> Option<usize> {
        self.count(name, key, 0..=10_000_000, 0).filter(|count| *count > 0)
    }

    pub(super) fn times(
        &mut self,
        section: &str,
        query: Key<Duration>,
        transaction: Key<Duration>,
        idle_in_transaction: Key<Duration>,
    ) -> TimeLimits {
        let mut one = |name: &str, key: Key<Duration>| {
            key.value.is_some().then(|| {
                let name = format!("{section}.{name}");
                self.time(&name, key, Duration::ZERO..=YEAR, Duration::ZERO)
            })
        };
        TimeLimits {
            query: one("query_timeout", query),
            transaction: one("transaction_timeout", transaction),
            idle_in_transaction: one("idle_in_transaction_timeout", idle_in_transaction),
        }
    }

    fn limits(&mut self, section: LimitsSection) -> Option<Limits> {
        let mib = 1 << 20;
        let statement_span = section.statement.span.clone();
        let limits = Limits {
            clients: self.count("limits.clients", section.clients, 1..=10_000_000, 10_000)?,
            clients_per_user: self.bound("limits.clients_per_user", section.clients_per_user),
            clients_per_database: self
                .bound("limits.clients_per_database", section.clients_per_database),
            clients_per_address: self
                .bound("limits.clients_per_address", section.clients_per_address),
            logins: self.count("limits.logins", section.logins, 1..=1_000_000, 2000)?,
            refusals: self.count("limits.refusals", section.refusals, 0..=1_000_000, 500)?,
            http_connections: self.count(
                "limits.http_connections",
                section.http_connections,
                1..=10_000,
                64,
            )?,
            memory: self
                .optional("limits.memory", section.memory)
                .map(|bytes| bytes.0)
                .filter(|bytes| *bytes > 0),
            startup_timeout: self.time(
                "limits.startup_timeout",
                section.startup_timeout,
                MILLISECOND..=Duration::from_secs(3600),
                Duration::from_secs(15),
            ),
            startup_packet: self.bytes(
                "limits.startup_packet",
                section.startup_packet,
                256..=mib,
                10_000,
            )?,
            message: self.bytes(
                "limits.message",
                section.message,
                1024..=LARGEST_MESSAGE,
                LARGEST_MESSAGE,
            )?,
            pipeline: self.bytes(
                "limits.pipeline",
                section.pipeline,
                1024..=LARGEST_MESSAGE,
                mib,
            )?,
            statement: self.bytes(
                "limits.statement",
                section.statement,
                1024..=LARGEST_MESSAGE,
                mib,
            )?,
            times: self.times(
                "limits",
                section.query_timeout,
                section.transaction_timeout,
                section.idle_in_transaction_timeout,
            ),
            idle_timeout: Some(self.time(
                "limits.idle_timeout",
                section.idle_timeout,
                Duration::ZERO..=YEAR,
                Duration::ZERO,
            ))
            .filter(|time| !time.is_zero()),
            session_keys: self.count(
                "limits.session_keys",
                section.session_keys,
                1..=100_000_000,
                65_536,
            )?,
        };
        if statement_span.is_some() && limits.statement > limits.message {
            let complaint = Complaint::Larger {
                value: limits.statement as u64,
                other: "message",
                limit: limits.message as u64,
            };
            self.complain("limits.statement", &statement_span, complaint);
        }
        Some(limits)
    }

    fn users(&mut self, tables: Vec<Spanned<UserTable>>, looked_up: bool) -> Vec<User> {
        if tables.is_empty() && !looked_up {
            self.complain("user", &None, Complaint::NoUsers);
        }
        let mut names = HashSet::new();
        let mut users = Vec::with_capacity(tables.len());
        for table in tables {
            let span = Some(table.span());
            let table = table.into_inner();
            let size_span = table.pool_size.span.clone();
            let pool_size = self.optional("user.pool_size", table.pool_size);
            if let Some(value) = pool_size.filter(|size| !(1..=100_000).contains(size)) {
                let complaint = Complaint::OutOfRange { value, low: 1, high: 100_000 };
                self.complain("user.pool_size", &size_span, complaint);
            }
            let keys = PasswordKeys {
                plain: table.password,
                file: table.password_file,
                env: table.password_env,
            };
            let password = self.password("user", keys).map(|(password, _)| password);
            let times = self.times(
                "user",
                table.query_timeout,
                table.transaction_timeout,
                table.idle_in_transaction_timeout,
            );
            let name = self.required("user.name", table.name, &span, "name = \"app\"");
            let Some(name) = name.map(cut_name) else { continue };
            self.twice(&mut names, name.clone(), "user.name", &span, &name);
            let pool_size = pool_size.and_then(|size| usize::try_from(size).ok());
            users.push(User { name, password, pool_size, times });
        }
        users
    }
}
