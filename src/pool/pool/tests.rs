//! A pool and servers that nobody opened: who is served, with what, and in which order.

use super::*;
use crate::net::Stream;

fn pool(size: usize) -> Arc<Pool> {
    let bounds = Bounds {
        size,
        wait: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        max_age: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(5),
        queue: 1000,
    };
    // Port 1 on loopback: a connection is refused at once.
    let address = Address { host: "127.0.0.1".into(), port: 1 };
    let login = Arc::new(Login::new("app", "app", None));
    let connector = ConnectorCell::default();
    Arc::new(Pool::new(NodeId(0), address, login, connector, bounds, 2, Arc::default()))
}

/// A server that is in the pool without having been opened; the other end is returned.
fn lend(pool: &Arc<Pool>, process_id: i32) -> (Lease, tokio::net::UnixStream) {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    pool.state.lock().places += 1;
    let address = pool.address.clone();
    let identity = Identity::new(NodeId(0), address, process_id, bytes::Bytes::new());
    let server = ServerConn::new(Stream::Unix(near), identity, 1, 0);
    (Lease::new(Box::new(server), Place::new(pool.clone())), far)
}

#[tokio::test]
async fn a_clean_server_comes_back_and_a_dropped_one_is_closed() {
    let pool = pool(1);
    let (lease, _far) = lend(&pool, 7);
    lease.give_back(1);
    assert_eq!(pool.counts(), Counts { in_use: 0, idle: 1, waiting: 0 });
    let lease = pool.lease(1, 1, &Wish::default()).await.unwrap();
    assert_eq!((lease.identity.process_id, lease.home), (7, 1), "moved to the other worker");
    drop(lease);
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test]
async fn what_is_not_clean_or_of_another_epoch_is_not_lent_again() {
    let pool = pool(3);
    let (mut dirty, _far1) = lend(&pool, 1);
    dirty.spoiled = true;
    dirty.give_back(1);
    let (old, _far2) = lend(&pool, 2);
    old.give_back(2);
    assert_eq!(pool.counts(), Counts::default());
    let (idle, far3) = lend(&pool, 3);
    idle.give_back(1);
    drop(far3);
    tokio::task::yield_now().await;
    let refused = pool.lease(0, 1, &Wish::default()).await;
    assert!(matches!(refused, Err(LeaseError::Connect(_))), "the dead server was not lent");
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn who_waits_longest_is_served_first_and_time_is_limited() {
    let pool = pool(1);
    let (lease, _far) = lend(&pool, 9);
    let wait =
        |pool: Arc<Pool>| tokio::spawn(async move { pool.lease(0, 1, &Wish::default()).await });
    let first = wait(pool.clone());
    tokio::task::yield_now().await;
    let gone = wait(pool.clone());
    tokio::task::yield_now().await;
    let second = wait(pool.clone());
    tokio::task::yield_now().await;
    assert_eq!(pool.counts().waiting, 3);
    gone.abort();
    tokio::task::yield_now().await;
    lease.give_back(1);
    let lease = first.await.unwrap().unwrap();
    assert!(!second.is_finished());
    lease.give_back(1);
    let lease = second.await.unwrap().unwrap();
    pool.set_bounds(Bounds { queue: 3, ..pool.bounds() });
    let busy: Vec<_> = (0..3).map(|_| wait(pool.clone())).collect();
    tokio::task::yield_now().await;
    let full = pool.lease(0, 1, &Wish::default()).await;
    assert!(matches!(full, Err(LeaseError::QueueFull { size: 1, waiting: 3 })), "{full:?}");
    for gone in busy {
        gone.abort();
        let _ = gone.await;
    }
    let late = pool.lease(0, 1, &Wish::default()).await;
    assert!(matches!(late, Err(LeaseError::Busy { size: 1, .. })));
    drop(lease);
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn a_server_stays_with_its_worker_until_others_have_waited_too_long() {
    let pool = pool(2);
    let (lease, _far) = lend(&pool, 1);
    let (_other, _far) = lend(&pool, 2);
    let mut waiting = Vec::new();
    for worker in [1, 0, 0, 0, 0] {
        let pool = pool.clone();
        waiting.push(tokio::spawn(async move { pool.lease(worker, 1, &Wish::default()).await }));
        tokio::task::yield_now().await;
    }
    // Two of its own worker go first, then who came before them all.
    let mut lease = Some(lease);
    for served in [1, 2, 0, 3, 4] {
        lease.take().unwrap().give_back(1);
        lease = Some((&mut waiting[served]).await.unwrap().unwrap());
        let others = waiting.iter().filter(|waiting| !waiting.is_finished()).count();
        assert_eq!(pool.counts().waiting, others);
        // Wherever it was moved to, it comes back here.
        lease.as_mut().unwrap().rehome(0).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_freed_place_goes_to_who_waits() {
    let pool = pool(1);
    let (lease, _far) = lend(&pool, 9);
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.lease(0, 1, &Wish::default()).await }
    });
    tokio::task::yield_now().await;
    drop(lease);
    assert!(matches!(waiting.await.unwrap(), Err(LeaseError::Connect(_))), "it tried to open");
    assert_eq!(pool.counts(), Counts::default());
}

#[tokio::test]
async fn the_reaper_closes_what_nobody_should_get() {
    let pool = pool(2);
    let (lease, _far) = lend(&pool, 1);
    lease.give_back(1);
    pool.reap(Instant::now(), 1);
    assert_eq!(pool.counts().idle, 1);
    pool.reap(Instant::now() + Duration::from_secs(61), 1);
    assert_eq!(pool.counts(), Counts::default());
}
