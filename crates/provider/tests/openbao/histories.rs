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

use testkit::{etcd::Etcd, openbao::OpenBao};

use self::{
    scenario::Scenario,
    verdicts::{Verdicts, Wrong},
    world::World,
};

/// Rounds of every run of the suite, the same each time, so that a run fails for a change alone.
const SEEDS: [u64; 3] = [1, 2, 3];
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
    rounds(SEEDS).await;
}

#[tokio::test]
async fn verdicts_equal_direct_decryption_in_histories_that_once_broke_them() {
    let servers = Servers::start().await;
    let mut wrong = Vec::new();
    for (claim, scenario) in regressions::all() {
        for Wrong { what, told } in servers.play(&scenario).await {
            wrong.push(format!("{claim}: {what}\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Plays the rounds of these seeds, or the one that the environment asks for, and fails for all of
/// them together.
async fn rounds(seeds: impl IntoIterator<Item = u64>) {
    let seeds = match env::var(SEED) {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => seeds.into_iter().collect(),
    };
    let servers = Servers::start().await;
    let mut wrong = Vec::new();
    for seed in seeds {
        let scenario = Scenario::drawn(seed);
        for Wrong { what, told } in servers.play(&scenario).await {
            wrong.push(format!("{SEED}={seed}: {what}\n{scenario:#?}\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
