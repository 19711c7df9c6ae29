//! Growth with the number of versions of the key, and with the number of calls.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use testkit::{
    files::SocketDir,
    tenant::{KEY, Tenant, Timing},
    wait::wait_until,
};

use crate::{
    Progress,
    figures::Calls,
    load::{Block, count},
    provider_process::Provider,
    report::{Report, Row, Target::AtMost},
    stage::Stage,
};

/// Numbers of versions and of calls.
pub(crate) struct Extent {
    few_versions: usize,
    many_versions: usize,
    statuses: Block,
}

impl Extent {
    pub(crate) const QUICK: Self = Self {
        few_versions: 5,
        many_versions: 500,
        statuses: Block::new(50_000, Duration::from_secs(10)),
    };
    pub(crate) const FULL: Self = Self {
        few_versions: 5,
        // OpenBao stores all of them in one entry, which raft storage limits to 1 MiB by default.
        many_versions: 5_000,
        statuses: Block::new(1_000_000, Duration::from_secs(120)),
    };
}

/// Limit of the wait for a promotion.
const SOON: Duration = Duration::from_secs(60);
/// Promotes a version as soon as possible. Longer than a probe of many versions.
const TIMING: Timing = Timing {
    probe_interval: Duration::from_millis(100),
    deep_probe_interval: Duration::from_secs(3600),
    max_staleness: Duration::from_secs(7200),
    activation_delay: Duration::from_millis(200),
    stable_observations: 2,
    grace_timeout: Duration::from_secs(30),
    retry_interval: Duration::from_millis(100),
};

/// A node with a key of its own.
struct Node<'s> {
    stage: &'s Stage,
    tenant: Tenant,
    sockets: SocketDir,
    config: PathBuf,
}

/// Figures of a provider with one number of versions.
struct Figures {
    state: f64,
    start: f64,
    promotion: f64,
    resident: f64,
}

/// A provider with many versions of the key in its state, beside one with few.
pub(crate) async fn versions(
    stage: &Stage,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    progress.say(&format!("{} versions", extent.few_versions));
    let few = Node::new(stage)
        .await
        .with_versions(extent.few_versions)
        .await;
    let versions = extent.many_versions;
    progress.say(&format!("{versions} versions"));
    let many = Node::new(stage).await.with_versions(versions).await;
    for (name, unit, figure) in [
        ("state", "bytes", (|it| it.state) as fn(&Figures) -> f64),
        ("start", "ms", |it| it.start),
        ("promotion", "ms", |it| it.promotion),
        ("resident", "MiB", |it| it.resident),
    ] {
        let (many, few) = (figure(&many), figure(&few));
        let row = Row::new(format!("versions.{name}"), many, unit);
        report.push(row.beside(few, many / few));
    }
}

impl<'s> Node<'s> {
    async fn new(stage: &'s Stage) -> Self {
        let tenant = Tenant::new(&stage.server).await;
        let sockets = SocketDir::new();
        let config = tenant.write_config(&tenant.config(&sockets, TIMING));
        Self {
            stage,
            tenant,
            sockets,
            config,
        }
    }

    async fn serve(&self) -> Provider {
        let mut command = self.stage.plain_command();
        command.arg("serve").arg("--config").arg(&self.config);
        self.sockets.set_environment(&mut command);
        let log = self.tenant.path().join("serve.log");
        Provider::start(command, log, self.sockets.socket()).await
    }

    async fn rotate(&self) {
        let admin = self.stage.server.admin();
        let rotated = admin.rotate_key(&self.tenant.transit_mount, KEY).await;
        rotated.unwrap();
    }

    /// The first provider finds all versions but the last, the second one promotes the last.
    async fn with_versions(&self, versions: usize) -> Figures {
        let provider = self.serve().await;
        for _ in 2..versions {
            self.rotate().await;
        }
        promoted(&provider, versions - 1).await;
        provider.stop().await;

        let provider = self.serve().await;
        self.rotate().await;
        let begin = Instant::now();
        promoted(&provider, versions).await;
        let promotion = begin.elapsed();
        let state = fs::read(self.tenant.state_dir().join("key-registry.json")).unwrap();
        let figures = Figures {
            state: count(state.len()),
            start: provider.start.as_secs_f64() * 1e3,
            promotion: promotion.as_secs_f64() * 1e3,
            resident: f64::from(provider.memory().resident) / 1024.0,
        };
        provider.stop().await;
        figures
    }
}

/// Waits until this version encrypts.
async fn promoted(provider: &Provider, version: usize) {
    wait_until(SOON, "the promotion", async || {
        let active = provider.metric("openbao_kms_key_version", "");
        (active - count(version)).abs() < 0.5
    })
    .await;
}

/// Memory before and after many Status calls.
pub(crate) async fn statuses(
    provider: &Provider,
    calls: &Calls,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    progress.say("many Status calls");
    let Block {
        calls: number,
        time,
    } = extent.statuses;
    // The buffers of the connection exist afterwards.
    Block::new(number / 20, time).run(1, calls.status()).await;
    let before = provider.memory().anonymous;
    let made = extent.statuses.run(1, calls.status()).await.calls();
    let after = provider.memory().anonymous;
    report.push(Row::new("status.many.calls", count(made), ""));
    let growth = (f64::from(after) - f64::from(before)) / 1024.0;
    report.push(Row::new("status.many.growth", growth, "MiB").target(AtMost(0.25)));
}
