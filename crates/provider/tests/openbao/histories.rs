//! Random histories of a cluster, then a random pair of an etcd backup and an OpenBao backup and a random
//! loss: each verdict of the commands is compared with the direct decryption of every stored object.
//!
//! A round is drawn from its seed. `HISTORY_SEED=N` runs the round of that seed alone; a failure prints
//! the seed and the scenario, which `regressions.rs` can hold.

mod long;
mod oracle;
mod regressions;
mod scenario;
mod verdicts;
mod world;

use std::env;

use testkit::{etcd::Etcd, openbao::OpenBao, stored::random};

use self::{
    scenario::Scenario,
    verdicts::{Verdicts, Wrong},
    world::World,
};

/// Rounds of every run of the suite.
const ROUNDS: usize = 3;
const SEED: &str = "HISTORY_SEED";

/// The servers of all rounds. OpenBao goes back to snapshots of its own, so it is not the shared one.
struct Servers {
    openbao: OpenBao,
    etcd: Etcd,
}

impl Servers {
    async fn start() -> Self {
        Self {
            openbao: OpenBao::start().await,
            etcd: Etcd::start().await,
        }
    }

    /// Plays the scenario. Returns each wrong verdict.
    async fn play(&self, scenario: &Scenario) -> Vec<Wrong> {
        let mut world = World::new(&self.openbao, &self.etcd).await;
        for action in &scenario.actions {
            world.act(action).await;
        }
        Verdicts::of(world, &scenario.incident).await
    }
}

#[tokio::test]
async fn verdicts_equal_direct_decryption_in_random_histories() {
    random_rounds(ROUNDS).await;
}

#[tokio::test]
async fn verdicts_equal_direct_decryption_in_histories_that_once_broke_them() {
    let servers = Servers::start().await;
    let mut wrong = Vec::new();
    for (claim, scenario) in regressions::all() {
        println!("{claim}");
        for Wrong { what, told } in servers.play(&scenario).await {
            println!("wrong: {what}\n{told}");
            wrong.push(format!("{claim}: {what}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Plays this many rounds, or the one that the environment asks for, and fails for all of them together.
#[expect(
    clippy::print_stdout,
    reason = "a failed test shows how to play its rounds again"
)]
async fn random_rounds(rounds: usize) {
    let seeds: Vec<u64> = match env::var(SEED) {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..rounds).map(|_| u64::from_le_bytes(random())).collect(),
    };
    let servers = Servers::start().await;
    let mut wrong = Vec::new();
    for seed in seeds {
        println!("{SEED}={seed}");
        let scenario = Scenario::drawn(seed);
        let found = servers.play(&scenario).await;
        if !found.is_empty() {
            println!("{scenario:#?}");
        }
        for Wrong { what, told } in found {
            println!("wrong: {what}\n{told}");
            wrong.push(format!("{SEED}={seed}: {what}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
