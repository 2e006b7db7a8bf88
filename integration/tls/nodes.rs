//! TLS toward nodes: PostgreSQL's own, in every mode, and for every connection that Causeway makes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway::auth::ServerSecret;
use causeway::cli::demo::cluster::{APP, Cluster, ClusterOptions, Node};
use causeway::cluster::monitor::look_once;
use causeway::config::settings::{self, Address, NodeTlsMode, Secret};
use causeway::server::{ConnectError, Established, ServerLogin, connect};
use causeway::tls::Connector;
use tokio::sync::OnceCell;

use super::{connector, directory, session};
use crate::certificates::{Authority, Identity};
use crate::harness::{Proxy, ProxyOptions, SOON, await_until, shared_cluster};

/// One node that offers TLS.
pub struct Offering {
    pub cluster: Cluster,
    /// Signed the node's certificate, and is believed by the node.
    pub authority: Authority,
    pub stranger: Authority,
    /// The node's own: for 127.0.0.1, and not for localhost.
    pub identity: Identity,
}

/// The same for all tests.
pub async fn offering() -> &'static Offering {
    static NODE: OnceCell<Offering> = OnceCell::const_new();
    NODE.get_or_init(own_offering).await
}

/// One that nobody else connects to.
async fn own_offering() -> Offering {
    let options = ClusterOptions { replicas: 0, ..ClusterOptions::default() };
    let cluster = Cluster::start(&options).unwrap();
    let directory = directory();
    let authority = Authority::new(&directory, "authority");
    let stranger = Authority::new(&directory, "stranger");
    let identity = authority.sign("node", "node", &["127.0.0.1"]);
    offer(cluster.primary(), &identity, &authority.root).await;
    let offering = Offering { cluster, authority, stranger, identity };
    await_until("the node offers TLS", async || {
        offering.log_in("127.0.0.1", &offering.trusting(), APP).await.is_ok()
    })
    .await;
    offering
}

/// Puts files into the node's data directory, by its own hands, and turns TLS on.
pub async fn offer(node: &Node, identity: &Identity, root: &Path) {
    let client = node.connect("postgres").await.unwrap();
    let write = async |text: &str, program: &str| {
        let rows = format!("SELECT unnest(string_to_array($pem${text}$pem$, E'\\n'))");
        let copy = format!("COPY ({rows}) TO PROGRAM 'umask 077; {program}'");
        client.batch_execute(&copy).await.unwrap();
    };
    for (path, name) in [
        (&identity.certificate, "server.crt"),
        (&identity.key, "server.key"),
        (&root.to_owned(), "root.crt"),
    ] {
        let pem = std::fs::read_to_string(path).unwrap();
        write(pem.trim_end(), &format!("cat > {name}")).await;
    }
    let rule = "hostssl all certified all cert";
    write(rule, "cat - pg_hba.conf > pg_hba.new && mv pg_hba.new pg_hba.conf").await;
    for statement in [
        "CREATE ROLE certified LOGIN",
        "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
}

impl Offering {
    pub fn trusting(&self) -> Connector {
        connector(NodeTlsMode::VerifyFull, Some(&self.authority.root), None)
    }

    fn address(&self, host: &str) -> Address {
        Address { host: host.to_owned(), port: self.cluster.primary().port() }
    }

    async fn log_in(
        &self,
        host: &str,
        connector: &Connector,
        user: &str,
    ) -> Result<Established, ConnectError> {
        log_in(&self.address(host), connector, user).await
    }
}

/// A server as the pools open it.
pub async fn log_in(
    address: &Address,
    connector: &Connector,
    user: &str,
) -> Result<Established, ConnectError> {
    let login = ServerLogin {
        user: user.to_owned(),
        database: "postgres".to_owned(),
        secret: Some(ServerSecret::password(Secret::new(APP))),
        parameters: Vec::new(),
    };
    connect(address, connector, &login, SOON).await
}

/// A look as the monitor takes it.
pub async fn look(address: &Address, connector: &Connector) -> Result<(), String> {
    let monitor = settings::Monitor {
        user: APP.to_owned(),
        password: Some(Secret::new(APP)),
        database: "postgres".to_owned(),
        interval: Duration::from_secs(1),
        timeout: SOON,
        max_lag: SOON,
        max_lag_bytes: None,
        readmit_lag: SOON,
        readmit_after: 1,
    };
    let node =
        settings::Node { name: "node".into(), address: address.clone(), weight: 1, zone: None };
    look_once(&monitor, connector, &node).await.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_wants_what_it_says() {
    use NodeTlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    /// Mode, root, where to, and whether it is TLS then, or what is wrong.
    type Case<'a> = (NodeTlsMode, Option<&'a PathBuf>, &'a Address, Result<bool, &'a str>);
    let node = offering().await;
    let plain = Address { host: "127.0.0.1".to_owned(), port: shared_cluster().primary().port() };
    let (by_number, by_name) = (node.address("127.0.0.1"), node.address("localhost"));
    let (right, wrong) = (Some(&node.authority.root), Some(&node.stranger.root));
    // The node's own certificate as the root.
    let own = Some(&node.identity.certificate);
    let cases: &[Case<'_>] = &[
        (Disable, None, &by_number, Ok(false)),
        (Prefer, None, &by_number, Ok(true)),
        (Prefer, None, &plain, Ok(false)),
        (Require, None, &by_name, Ok(true)),
        (Require, None, &plain, Err("the server does not offer TLS")),
        (VerifyCa, right, &by_name, Ok(true)),
        (VerifyCa, wrong, &by_number, Err("UnknownIssuer")),
        (VerifyCa, right, &plain, Err("the server does not offer TLS")),
        (VerifyFull, right, &by_number, Ok(true)),
        (VerifyFull, right, &by_name, Err("not valid for name")),
        (VerifyFull, wrong, &by_number, Err("UnknownIssuer")),
        (VerifyFull, own, &by_number, Ok(true)),
        (VerifyFull, own, &by_name, Err("not valid for name")),
    ];
    for (mode, root, address, expected) in cases {
        let connector = connector(*mode, root.map(PathBuf::as_path), None);
        let opened = log_in(address, &connector, APP).await;
        let looked = look(address, &connector).await;
        let case = format!("{mode:?} {root:?} {address}");
        match expected {
            Ok(over_tls) => {
                let opened = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(opened.stream.tls().is_some(), *over_tls, "{case}");
                assert_eq!(looked, Ok(()), "{case}");
            }
            Err(why) => {
                let error = opened.unwrap_err();
                assert!(error.to_string().contains(why), "{case}: {error}");
                assert_eq!(error.report().sqlstate, "08001", "{case}");
                assert!(looked.is_err(), "{case}: the monitor got in");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_a_certificate() {
    let node = offering().await;
    let root = Some(node.authority.root.as_path());
    let ours = node.authority.sign("certified", "certified", &[]);
    let forged = node.stranger.sign("forged", "certified", &[]);
    let with = |identity| connector(NodeTlsMode::VerifyFull, root, identity);
    node.log_in("127.0.0.1", &with(Some(&ours)), "certified").await.expect("it is certified's");
    let bare = node.log_in("127.0.0.1", &with(None), "certified").await.unwrap_err();
    assert_eq!(bare.report().sqlstate, "28000", "{bare}");
    let forged = node.log_in("127.0.0.1", &with(Some(&forged)), "certified").await;
    assert!(
        matches!(forged, Err(ConnectError::Tls(_) | ConnectError::Unreachable(_))),
        "{forged:?}"
    );
}

/// The whole program: sessions, monitor and catalog, cancels, and what a server says unasked.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_to_a_node_in_plain_text() {
    let node = own_offering().await;
    let root = node.authority.root.display();
    let more = format!("[node_tls]\nmode = \"verify-full\"\nroot = \"{root}\"\n").leak();
    let options = ProxyOptions { more, ..ProxyOptions::default() };
    let proxy = Proxy::start(&node.cluster, &options).await;
    let (listener, mut heard) = session(&proxy.config(APP), Connector::disabled()).await.unwrap();
    let (client, _) = session(&proxy.config(APP), Connector::disabled()).await.unwrap();
    listener.batch_execute("LISTEN news").await.unwrap();
    let direct = node.cluster.primary().connect("postgres").await.unwrap();
    let of_app = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl), \
                  count(*) FILTER (WHERE application_name IN ('causeway monitor', 'causeway catalog')) \
                  FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'app'";
    await_until("monitor, catalog and a session are there", async || {
        let row = direct.query_one(of_app, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(1), 0, "in plain text");
        row.get::<_, i64>(0) >= 3 && row.get::<_, i64>(2) == 2
    })
    .await;
    for number in 0..10 {
        client.batch_execute(&format!("NOTIFY news, '{number}'")).await.unwrap();
        let news = tokio::time::timeout(SOON, heard.recv()).await.expect("a silent server speaks");
        assert_eq!(news.unwrap(), number.to_string());
    }
    let rows =
        client.query("SELECT repeat('x', 10000) FROM generate_series(1, 3000)", &[]).await.unwrap();
    assert_eq!(rows.len(), 3000);
    let long = "y".repeat(3_000_000);
    let row = client.query_one("SELECT length($1::text)", &[&long]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 3_000_000);

    let token = client.cancel_token();
    let cancelling = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        }
    };
    let error = tokio::select! {
        ended = client.batch_execute("SELECT pg_sleep(600)") => ended.unwrap_err(),
        () = cancelling => unreachable!("it goes on for ever"),
    };
    assert_eq!(error.code().unwrap().code(), "57014");

    // A root that does not fit: nobody is dropped, and no server is opened any more.
    let text = std::fs::read_to_string(&proxy.config).unwrap();
    let stranger = node.stranger.root.display().to_string();
    std::fs::write(&proxy.config, text.replace(&root.to_string(), &stranger)).unwrap();
    proxy.signal("HUP");
    await_until("the node is not believed any more", async || {
        proxy.state(node.cluster.primary()).await.as_deref() == Some("down")
    })
    .await;
    assert!(proxy.log().contains("UnknownIssuer"), "{}", proxy.log());
    listener.batch_execute("SELECT 1").await.expect("who has a server keeps it");
    std::fs::write(&proxy.config, text).unwrap();
    proxy.signal("HUP");
    proxy.await_state(node.cluster.primary(), "up").await;
    client.batch_execute("SELECT 1").await.unwrap();
}

/// Roles are looked up over TLS as well, and a node that cannot prove itself is not asked.
#[tokio::test(flavor = "multi_thread")]
async fn roles_are_looked_up_over_tls() {
    let node = own_offering().await;
    let direct = node.cluster.primary().connect("postgres").await.unwrap();
    direct.batch_execute("CREATE ROLE found LOGIN PASSWORD 'found'").await.unwrap();
    let section = |root: &Path| {
        format!(
            "[node_tls]\nmode = \"verify-full\"\nroot = \"{}\"\n\
             [auth_query]\nuser = \"postgres\"\npassword = \"postgres\"\ndatabase = \"postgres\"\n",
            root.display()
        )
    };
    let more = section(&node.authority.root).leak();
    let proxy = Proxy::start(&node.cluster, &ProxyOptions { more, ..Default::default() }).await;
    let mut config = proxy.config(APP);
    config.user("found").password("found");
    let (client, _) = session(&config, Connector::disabled()).await.expect("it is found");
    let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "found");
    let asked = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) \
                 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'causeway auth_query'";
    let row = direct.query_one(asked, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 1 && row.get::<_, i64>(1) == 0, "in plain text");

    let more = section(&node.stranger.root).leak();
    let options = ProxyOptions { more, ..Default::default() };
    let lost = Proxy::spawn(&node.cluster, &options);
    let mut config = lost.config(APP);
    config.user("found").password("found");
    await_until("it is refused, since nobody can be asked", async || {
        let refused = session(&config, Connector::disabled()).await.err();
        let refused = refused.and_then(|error| error.as_db_error().cloned());
        refused.is_some_and(|report| report.code().code() == "57P03")
    })
    .await;
}
