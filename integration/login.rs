//! Logins that fail, fail exactly as with PostgreSQL itself.

use tokio_postgres::{Config, NoTls};

use crate::harness::{Proxy, ProxyOptions, shared_cluster};

/// Severity, SQLSTATE and message with which a login is refused.
async fn refusal(config: &Config) -> (String, String, String) {
    let error = config.connect(NoTls).await.err().expect("the login is refused");
    let report = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (report.severity().into(), report.code().code().into(), report.message().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_logins_look_as_they_do_directly() {
    let cluster = shared_cluster();
    let proxy = Proxy::start(cluster, &ProxyOptions::default()).await;
    for (sqlstate, user, password, database) in [
        ("28P01", "app", "wrong", "app"),
        ("28P01", "app", "wrong", "nowhere"),
        ("28P01", "nobody", "app", "app"),
        ("28P01", "nobody", "app", "nowhere"),
        ("3D000", "app", "app", "nowhere"),
        ("3D000", "app", "app", "an \"odd\" näme"),
    ] {
        let login = |port: u16| {
            let mut config = Config::new();
            config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
            config
        };
        let expected = refusal(&login(cluster.primary().port())).await;
        assert_eq!(expected.1, sqlstate, "{user} {password} {database}");
        let through = refusal(&login(proxy.address.port())).await;
        assert_eq!(through, expected, "{user} {password} {database}");
    }
    // None of them keeps the right one out.
    proxy.connect("app").await.simple_query("SELECT 1").await.unwrap();
}
