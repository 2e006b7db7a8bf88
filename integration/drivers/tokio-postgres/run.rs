//! tokio-postgres and deadpool-postgres: pools, prepared statements, pipelines, transactions, COPY both
//! ways, portals, cancel, notifications. Run at the primary as well: what is expected is what
//! PostgreSQL does.

use std::time::Duration;

use causeway::cli::demo::cluster::APP;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::future::{join_all, poll_fn, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

/// All of it, before whoever serves on this port.
pub async fn run(port: u16, database: &str) {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(APP).password(APP).dbname(database);
    let client = connect(&config).await;
    client
        .batch_execute(
            "CREATE TABLE things (id int PRIMARY KEY, name text, tags text[], made timestamptz)",
        )
        .await
        .unwrap();
    prepared_statements_and_types(&client).await;
    pipelines(&client).await;
    transactions_and_errors(&config).await;
    copy_both_ways(&client).await;
    portals(&config).await;
    cancel(&client).await;
    notifications(&config, &client).await;
    pool(&config, RecyclingMethod::Fast).await;
    pool(&config, RecyclingMethod::Clean).await;
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn prepared_statements_and_types(client: &Client) {
    let insert =
        client.prepare("INSERT INTO things VALUES ($1, $2, $3, now()) RETURNING id").await.unwrap();
    assert_eq!(insert.params(), [Type::INT4, Type::TEXT, Type::TEXT_ARRAY]);
    for number in 0..20_i32 {
        let (name, tags) = (format!("thing {number}"), vec!["a".to_owned(), number.to_string()]);
        let row = client.query_one(&insert, &[&number, &name, &tags]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), number);
    }
    let select = client.prepare("SELECT name, tags FROM things WHERE id = $1").await.unwrap();
    for number in 0..20_i32 {
        let row = client.query_one(&select, &[&number]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), format!("thing {number}"));
        assert_eq!(row.get::<_, Vec<String>>(1), ["a".to_owned(), number.to_string()]);
    }
    let typed = client.prepare_typed("SELECT $1", &[Type::INT8]).await.unwrap();
    assert_eq!(client.query_one(&typed, &[&7_i64]).await.unwrap().get::<_, i64>(0), 7);
    let error = client.prepare("SELECT nothing FROM things").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_COLUMN));
    drop((insert, select, typed));
    // Closed when they were dropped.
    client.query_one("SELECT 1", &[]).await.unwrap();
}

async fn pipelines(client: &Client) {
    let double = client.prepare("SELECT $1::int * 2").await.unwrap();
    let numbers: Vec<i32> = (0..500).collect();
    let answers = try_join_all(numbers.iter().map(async |number| {
        client.query_one(&double, &[number]).await.map(|row| row.get::<_, i32>(0))
    }));
    let expected: Vec<i32> = numbers.iter().map(|number| number * 2).collect();
    assert_eq!(answers.await.unwrap(), expected);
    // An error in the middle fails its own statement only.
    let divide = client.prepare("SELECT 10 / $1::int").await.unwrap();
    let answers = join_all([5, 0, 2].iter().map(|by| {
        let divide = &divide;
        async move { client.query_one(divide, &[by]).await.map(|row| row.get::<_, i32>(0)) }
    }));
    let answers = answers.await;
    assert_eq!((*answers[0].as_ref().unwrap(), *answers[2].as_ref().unwrap()), (2, 5));
    assert_eq!(answers[1].as_ref().unwrap_err().code(), Some(&SqlState::DIVISION_BY_ZERO));
}

async fn transactions_and_errors(config: &Config) {
    let mut client = connect(config).await;
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO things (id) VALUES (1000)", &[]).await.unwrap();
    let inner = transaction.transaction().await.unwrap();
    let error = inner.execute("INSERT INTO things (id) VALUES (1000)", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    inner.rollback().await.unwrap();
    transaction.rollback().await.unwrap();
    // Dropped: rolled back.
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO things (id) VALUES (1000)", &[]).await.unwrap();
    drop(transaction);
    let count = "SELECT count(*) FROM things WHERE id = 1000";
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0);
    let transaction = client.build_transaction().read_only(true).start().await.unwrap();
    let error = transaction.execute("DELETE FROM things", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    transaction.rollback().await.unwrap();
}

async fn copy_both_ways(client: &Client) {
    client.batch_execute("CREATE TABLE copied (n int, t text)").await.unwrap();
    let sink = client.copy_in("COPY copied FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for number in 0..5000 {
        sink.send(bytes::Bytes::from(format!("{number}\trow {number}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 5000);
    let rows = client.copy_out("COPY copied TO STDOUT").await.unwrap();
    pin_mut!(rows);
    let mut lines = 0;
    while let Some(part) = rows.try_next().await.unwrap() {
        lines += std::str::from_utf8(&part).unwrap().lines().count();
    }
    assert_eq!(lines, 5000);
    // Given up in the middle: nothing is there.
    let sink = client.copy_in::<_, bytes::Bytes>("COPY copied FROM STDIN").await.unwrap();
    {
        pin_mut!(sink);
        sink.send("1\tx\n".into()).await.unwrap();
    }
    let count = client.query_one("SELECT count(*) FROM copied", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 5000);
}

async fn portals(config: &Config) {
    let mut client = connect(config).await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT n FROM copied ORDER BY n", &[]).await.unwrap();
    let mut seen = 0;
    loop {
        let rows = transaction.query_portal(&portal, 700).await.unwrap();
        for row in &rows {
            assert_eq!(row.get::<_, i32>(0), seen);
            seen += 1;
        }
        if rows.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 5000);
    transaction.commit().await.unwrap();
}

async fn cancel(client: &Client) {
    let token = client.cancel_token();
    let sleep = client.execute("SELECT pg_sleep(30)", &[]);
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, later);
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    client.query_one("SELECT 1", &[]).await.unwrap();
}

async fn notifications(config: &Config, other: &Client) {
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification);
            }
        }
    });
    client.batch_execute("LISTEN here").await.unwrap();
    // While the listener is idle.
    other.execute("SELECT pg_notify('here', 'one')", &[]).await.unwrap();
    other.batch_execute("NOTIFY here, 'two'").await.unwrap();
    for payload in ["one", "two"] {
        let notification = tokio::time::timeout(Duration::from_secs(30), heard.recv()).await;
        let notification = notification.unwrap().unwrap();
        assert_eq!((notification.channel(), notification.payload()), ("here", payload));
    }
    client.batch_execute("UNLISTEN here").await.unwrap();
    poll_fn(|_| std::task::Poll::Ready(())).await;
}

async fn pool(config: &Config, recycling_method: RecyclingMethod) {
    let manager = Manager::from_config(config.clone(), NoTls, ManagerConfig { recycling_method });
    let pool = Pool::builder(manager).max_size(8).build().unwrap();
    let work = (0..64_i32).map(async |number| {
        let client = pool.get().await.unwrap();
        client.batch_execute(&format!("SET app.number = '{number}'")).await.unwrap();
        let read =
            client.prepare_cached("SELECT current_setting('app.number'), $1::int").await.unwrap();
        let row = client.query_one(&read, &[&number]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), number.to_string());
        assert_eq!(row.get::<_, i32>(1), number);
    });
    join_all(work).await;
}
