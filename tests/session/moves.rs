//! A session leaves its worker between two transactions, with all that it has, and ends when told to.

use std::sync::atomic::Ordering;

use causeway::session::failure::SessionEnd;

use super::Bed;

#[tokio::test(start_paused = true)]
async fn a_session_moves_between_transactions_and_keeps_what_it_has() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("set application_name to 'mine'").await;
    primary.hears("set application_name to 'mine'").await;
    primary.done("SET", b'I').await;
    assert_eq!(client.answer().await, "SET Z:I");

    // It is to leave as soon as it can, which is not inside a transaction, held back or not.
    assert_eq!(client.asks("begin").await, "BEGIN Z:T");
    bed.post.order(1);
    client.ask("insert into t values (1)").await;
    primary.hears("begin").await;
    primary.hears("insert into t values (1)").await;
    primary.done("BEGIN", b'T').await;
    primary.done("INSERT 0 1", b'T').await;
    assert_eq!(client.answer().await, "INSERT 0 1 Z:T");
    assert_eq!(bed.moves.load(Ordering::Relaxed), 0);
    client.ask("commit").await;
    primary.hears("commit").await;
    primary.done("COMMIT", b'I').await;
    assert_eq!(client.answer().await, "COMMIT Z:I");

    // The setting is still on the server, and known to be.
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    primary.done("DELETE 1", b'I').await;
    assert_eq!(client.answer().await, "DELETE 1 Z:I");
    assert_eq!(bed.moves.load(Ordering::Relaxed), 1, "once is enough");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_told_to_end_does_so_between_transactions() {
    let mut bed = Bed::start(0).await;
    let (idle, mut primary) = bed.first().await;
    let mut busy = bed.client().await;
    assert_eq!(busy.asks("begin").await, "BEGIN Z:T");
    bed.post.drain();
    let end = idle.task.await.unwrap();
    assert!(matches!(end, Err(SessionEnd::Drained)), "{end:?}");
    busy.ask("insert into t values (1)").await;
    primary.hears("begin").await;
    primary.hears("insert into t values (1)").await;
    primary.done("BEGIN", b'T').await;
    primary.done("INSERT 0 1", b'T').await;
    assert_eq!(busy.answer().await, "INSERT 0 1 Z:T");
    assert!(!busy.task.is_finished());
    busy.ask("rollback").await;
    primary.hears("rollback").await;
    primary.done("ROLLBACK", b'I').await;
    assert_eq!(busy.answer().await, "ROLLBACK Z:I");
    assert!(matches!(busy.task.await.unwrap(), Err(SessionEnd::Drained)));
}
