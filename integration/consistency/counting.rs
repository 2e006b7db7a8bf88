//! Chance at work on counters: which are read, where, and how they are written.

use std::io;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::client::Protocol;
use super::counters::Op;
use super::history::Key;
use super::session::{Planned, Session};
use super::world::{COMMON, Form, PROCEDURES, Place, Which};

/// A session that does what chance says.
pub struct Counting {
    session: Session,
    random: StdRng,
    /// Keys that it reads again and again, its own among them.
    favourites: Vec<Key>,
    /// It writes nothing, so that only what it has seen binds it.
    only_reads: bool,
}

impl Counting {
    pub fn new(session: Session, only_reads: bool) -> Self {
        let mut random = StdRng::seed_from_u64(session.number as u64);
        let mut favourites: Vec<Key> = session.own.iter().map(|(key, _)| *key).collect();
        favourites.extend((0..3).map(|_| any_key(&mut random, session.ground.keys)));
        Self { session, random, favourites, only_reads }
    }

    /// Works until the run ends or the connection is lost; returns what it did.
    pub async fn work(mut self) -> Vec<Op> {
        while !self.session.ground.ended() {
            if let Err(error) = self.turn().await {
                self.session.ground.lost(self.session.number, &error);
                break;
            }
            let pause = self.session.ground.mix.pause;
            if !pause.is_zero() {
                tokio::time::sleep(pause.mul_f64(self.random.random_range(0.0..2.0))).await;
            }
        }
        self.session.into_ops()
    }

    async fn turn(&mut self) -> io::Result<()> {
        let mix = self.session.ground.mix;
        if self.random.random_range(0..1000) < mix.tokens {
            if self.random.random_bool(0.5) {
                return self.session.take_token().await;
            }
            return self.session.show_token().await;
        }
        if self.session.protocol == Protocol::Pipelined && self.random.random_bool(0.7) {
            let count = self.random.random_range(2..5);
            let planned: Vec<Planned> = (0..count).map(|_| self.planned()).collect();
            return self.session.pipeline(&planned).await;
        }
        match self.planned() {
            Planned::Read(which) => self.read(which).await,
            Planned::Write(place) => {
                let form = self.form();
                self.session.write(place, form).await
            }
        }
    }

    fn form(&mut self) -> Form {
        let procedure = self.random.random_range(0..10_000) < self.session.ground.mix.procedures;
        let forms: &[Form] = if procedure { &PROCEDURES } else { &COMMON };
        *forms.choose(&mut self.random).expect("there are forms")
    }

    fn planned(&mut self) -> Planned {
        let reads =
            self.only_reads || self.random.random_range(0..100) < self.session.ground.mix.reads;
        if reads {
            Planned::Read(self.which())
        } else {
            Planned::Write(self.random.random_range(0..self.session.own.len()))
        }
    }

    async fn read(&mut self, which: Which) -> io::Result<()> {
        // Who only reads is seldom bound by the primary: between replicas there are traps too.
        let bound = self.session.ground.mix.placed / if self.only_reads { 10 } else { 1 };
        if self.random.random_range(0..100) >= bound {
            let witness = self.random.random_range(0..4) > 0;
            return self.session.read(&which, Place::Any, witness).await;
        }
        let places = [
            Place::Primary,
            Place::LevelPrimary,
            Place::LevelGlobal,
            Place::ReadOnly,
            Place::Transaction,
        ];
        let place = *places.choose(&mut self.random).expect("there are places");
        if matches!(place, Place::ReadOnly | Place::Transaction) {
            let again = if self.random.random_bool(0.5) { which.clone() } else { self.which() };
            return self.session.read_together(&[which, again], place).await;
        }
        self.session.read(&which, place, true).await
    }

    fn which(&mut self) -> Which {
        let keys = self.session.ground.keys;
        match self.random.random_range(0..10) {
            0..6 => Which::One(*self.favourites.choose(&mut self.random).expect("it has some")),
            6..8 => Which::One(any_key(&mut self.random, keys)),
            _ => {
                let last = Key::try_from(keys - 1).expect("keys are few");
                let first = any_key(&mut self.random, keys);
                Which::Range(first, last.min(first + 15))
            }
        }
    }
}

fn any_key(random: &mut StdRng, keys: usize) -> Key {
    random.random_range(0..Key::try_from(keys).expect("keys are few"))
}
