//! The checker can fail: proxies that are wrong in one point, each with the circumstances that show it.
//!
//! `CAUSEWAY_MUTANT` breaks a build that is made for tests in one named way. Every scenario is played
//! twice, with the mutant, which must be caught, and without, which must pass.

use std::io;
use std::time::Duration;

use causeway::cli::demo::cluster::{Cluster, Node, Stop};
use causeway::cluster::mutant::Mutant;
use tokio::time::sleep;

use super::cell::proxy_options;
use super::counters::{self, History};
use super::faults::{self, Commit, Fault};
use super::scene::Scene;
use super::session::Session;
use super::world::{Form, PATIENT, Place, Which};
use crate::harness::ProxyOptions;

/// Plays the scenario that shows this fault, before the mutant or before the proxy as it should be.
pub async fn play(
    mutant: Mutant,
    cluster: &Cluster,
    mutated: bool,
) -> (History, Vec<counters::Violation>) {
    let options = match mutant {
        // Replicas are waited for until they are there: the wait matters, not what comes after it.
        Mutant::CheckInRead => ProxyOptions { routing: PATIENT, ..proxy_options() },
        _ => proxy_options(),
    };
    let mut scene = Scene::open(cluster, options, mutated.then_some(mutant)).await;
    let played = match mutant {
        Mutant::Eventual | Mutant::CheckInRead => scene.far_replicas().await,
        Mutant::FloorCleared => scene.uneven_replicas().await,
        Mutant::WriteLsn => scene.lazy_wal_writer().await,
        Mutant::EarlySample => scene.still_replicas().await,
        Mutant::NoBarrier => scene.commit_in_waiting().await,
        Mutant::StaleWatermark => scene.replica_reborn().await,
    };
    played.expect("no session loses its connection");
    scene.close().await
}

/// A replica shows a commit that the primary does not show yet, and dies.
pub async fn play_last_words(
    cluster: &Cluster,
    mutant: Option<Mutant>,
) -> (History, Vec<counters::Violation>) {
    let mut scene = Scene::open(cluster, proxy_options(), mutant).await;
    scene.last_words().await.expect("no session loses its connection");
    scene.close().await
}

impl Scene<'_> {
    /// Replicas 300 ms behind: whoever is sent there sees the past.
    async fn far_replicas(&mut self) -> io::Result<()> {
        for replica in self.cluster.replicas() {
            faults::delay_replay(replica, Duration::from_millis(300)).await.unwrap();
        }
        let mut session = self.session().await;
        for _ in 0..5 {
            session.write(0, Form::Update).await?;
            for _ in 0..4 {
                session.read(&Which::One(0), Place::Any, true).await?;
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.ended(session);
        Ok(())
    }

    /// One replica that is fresh and one that is not: whoever was right on the first must not be sent
    /// to the second.
    async fn uneven_replicas(&mut self) -> io::Result<()> {
        let late = &self.cluster.replicas()[1];
        faults::delay_replay(late, Duration::from_millis(600)).await.unwrap();
        let mut session = self.session().await;
        for _ in 0..5 {
            session.write(0, Form::Update).await?;
            sleep(Duration::from_millis(100)).await;
            for _ in 0..6 {
                session.read(&Which::One(0), Place::Any, true).await?;
            }
        }
        self.ended(session);
        Ok(())
    }

    /// Commits that are not flushed at once: the write pointer is behind them.
    async fn lazy_wal_writer(&mut self) -> io::Result<()> {
        let primary = self.cluster.primary();
        faults::set(primary, "wal_writer_delay", "2s").await.unwrap();
        faults::prepare(self.cluster, Fault::None, Commit::Off).await.unwrap();
        let mut session = self.session().await;
        for _ in 0..20 {
            session.write(0, Form::Update).await?;
            for _ in 0..2 {
                session.read(&Which::One(0), Place::Any, true).await?;
            }
            sleep(Duration::from_millis(100)).await;
        }
        faults::set(primary, "wal_writer_delay", "200ms").await.unwrap();
        self.ended(session);
        Ok(())
    }

    /// Replicas that stand where the last sample was taken.
    async fn still_replicas(&mut self) -> io::Result<()> {
        let mut session = self.session().await;
        for _ in 0..5 {
            session.write(0, Form::Update).await?;
            session.read(&Which::One(0), Place::Any, true).await?;
            self.cluster.await_replay().await.unwrap();
            sleep(Duration::from_millis(300)).await;
            for replica in self.cluster.replicas() {
                replica.pause_replay().await.unwrap();
            }
            session.write(0, Form::Update).await?;
            session.read(&Which::One(0), Place::Any, true).await?;
            for replica in self.cluster.replicas() {
                replica.resume_replay().await.unwrap();
            }
        }
        self.ended(session);
        Ok(())
    }

    /// A commit waits for the second replica while the first shows it already: who has seen it there
    /// must see it on the primary, which does not show it yet; and so must who is under the same key,
    /// and who was given a token.
    async fn commit_in_waiting(&mut self) -> io::Result<()> {
        faults::prepare(self.cluster, Fault::SlowStandby, Commit::RemoteApply).await.unwrap();
        let slow = &self.cluster.replicas()[1];
        faults::delay_replay(slow, Duration::from_millis(600)).await.unwrap();
        let mut writer = self.session().await;
        let mut reader = self.session_under_key().await;
        let (mut twin, mut heir) = (self.session_under_key().await, self.session().await);
        let counter = Which::One(0);
        for round in 0..6 {
            let write = writer.write(0, Form::Update);
            let read = async {
                for _ in 0..20 {
                    reader.read(&counter, Place::Any, true).await?;
                    match round % 3 {
                        0 => reader.read(&counter, Place::Primary, true).await?,
                        1 => twin.read(&counter, Place::Primary, true).await?,
                        _ => {
                            reader.show_token().await?;
                            heir.take_token().await?;
                            heir.read(&counter, Place::Primary, true).await?;
                        }
                    }
                    sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            };
            tokio::try_join!(write, read)?;
        }
        for session in [writer, reader, twin, heir] {
            self.ended(session);
        }
        Ok(())
    }

    /// Who has seen a commit on a replica that is dead since must see it on the primary, which waits
    /// for the other replica, and for the dead one to come back.
    async fn last_words(&mut self) -> io::Result<()> {
        faults::prepare(self.cluster, Fault::SlowStandby, Commit::RemoteApply).await.unwrap();
        let [replica, slow] = self.cluster.replicas() else { unreachable!("there are two") };
        faults::delay_replay(slow, Duration::from_millis(1500)).await.unwrap();
        let mut writer = self.session().await;
        let write = writer.write(0, Form::Update);
        let read = async {
            let reader = self.witness_of(1).await?;
            tokio::task::block_in_place(|| replica.stop(Stop::Kill)).unwrap();
            self.look_after(reader, replica).await
        };
        let ((), reader) = tokio::try_join!(write, read)?;
        self.ended(writer);
        self.ended(reader);
        Ok(())
    }

    /// A session that has seen this value. A session may stay on one replica: others are asked, until
    /// one is on the replica that has it.
    async fn witness_of(&mut self, value: u64) -> io::Result<Session> {
        for _ in 0..8 {
            let mut reader = self.session().await;
            for _ in 0..8 {
                reader.read(&Which::One(0), Place::Any, true).await?;
                if reader.last_seen() == value {
                    return Ok(reader);
                }
            }
            self.ended(reader);
        }
        panic!("no replica shows what the primary has not shown yet");
    }

    /// Reads on the primary, while the replica comes back.
    async fn look_after(&self, mut reader: Session, replica: &Node) -> io::Result<Session> {
        let look = async {
            for _ in 0..5 {
                reader.read(&Which::One(0), Place::Primary, true).await?;
            }
            Ok(reader)
        };
        let reborn = async {
            sleep(Duration::from_millis(800)).await;
            tokio::task::block_in_place(|| replica.restart()).unwrap();
            self.proxy.await_state(replica, "up").await;
            Ok(())
        };
        tokio::try_join!(look, reborn).map(|(reader, ())| reader)
    }

    /// A replica that dies and comes back further behind than it was.
    async fn replica_reborn(&mut self) -> io::Result<()> {
        let [replica, other] = self.cluster.replicas() else { unreachable!("there are two") };
        tokio::task::block_in_place(|| other.stop(Stop::Fast)).unwrap();
        self.cluster.primary().execute("CHECKPOINT").await.unwrap();
        self.cluster.await_replay().await.unwrap();
        // Where it will begin again: before what is written now.
        replica.execute("CHECKPOINT").await.unwrap();
        faults::set_for_next_start(replica, "recovery_min_apply_delay", "1h").await.unwrap();
        let mut session = self.session().await;
        session.write(0, Form::Update).await?;
        self.cluster.await_replay().await.unwrap();
        for _ in 0..5 {
            session.read(&Which::One(0), Place::Any, true).await?;
            sleep(Duration::from_millis(100)).await;
        }
        faults::start_again(replica, Stop::Kill).await.unwrap();
        self.proxy.await_state(replica, "up").await;
        for _ in 0..20 {
            session.read(&Which::One(0), Place::Any, true).await?;
            sleep(Duration::from_millis(50)).await;
        }
        faults::delay_replay(replica, Duration::ZERO).await.unwrap();
        tokio::task::block_in_place(|| other.restart()).unwrap();
        self.ended(session);
        Ok(())
    }
}
