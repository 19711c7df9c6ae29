//! `rollout`: the phase of each API server, and the next step that is safe.

use std::path::PathBuf;

use clap::Args;
use etcd_snapshot::revision::Revisions;
use kms_cluster::rollout::{
    self, Gathered, Settings,
    judge::{Step, Stored, Uncounted},
    report::{self, Asked},
};
use kms_daemon::lifecycle::{self, Hangup};
use kms_node::{
    clock::{Clock as _, SystemClock},
    report::outcome::{Nothing, Outcome},
};
use kms_operator::{
    diagnose::encryption_config::{Ruled, ruled},
    recovery::{
        EtcdError, EtcdSource,
        inventory::{Inventory, Protected, Wanted, without_prefix},
    },
};

use super::{
    Context, Exit, Failure, OutputFlag, cluster_flags::ClusterFlags, etcd_source::EvidenceFlags,
    progress::reading, rewrite::RewriteFailure, runtime,
};

/// Show the phase of each API server on the way to encryption, and the next step that is safe
///
/// Phases are none, readers, writers and identity-removed. Each API server writes an empty Secret, and
/// every one reads all of them; the running etcd of --endpoints, else metrics, name the provider that
/// encrypted each. Exit code 4 when an API server lags or cannot read what another one writes, 5 when an
/// API server was not examined.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Name of the KMS provider in the EncryptionConfiguration [default: the only one]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// An EncryptionConfiguration that API servers may have; tells whether they still read plaintext;
    /// repeatable
    #[arg(long, value_name = "FILE")]
    encryption_config: Vec<PathBuf>,
    /// Namespace of the Secrets
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    namespace: String,
    /// Succeed only if this step may begin, or go on at the next API server
    #[arg(long = "for", value_name = "STEP")]
    step: Option<Step>,
    #[command(flatten)]
    etcd: EvidenceFlags,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let files: Result<Vec<Ruled>, _> = self
            .encryption_config
            .iter()
            .map(|file| ruled(file))
            .collect();
        let files = match files {
            Ok(files) => files,
            Err(check) => {
                let mut outcome = Outcome::new("rollout", SystemClock.now(), Nothing {});
                outcome.add_checks([*check]);
                outcome.conclude_by_checks();
                return self.output.show(&outcome, context);
            }
        };
        let settings = Settings {
            provider: self.provider.clone(),
            namespace: self.namespace.clone(),
            files,
            run: SystemClock
                .now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_micros()),
            etcd: self.etcd.live()?,
        };
        let gathered = self.gather(&settings)?;
        let stored = self.stored(&gathered, &settings.files)?;
        let asked = Asked {
            step: self.step,
            again: &context.again(),
            namespace: &self.namespace,
        };
        let mut outcome = report::outcome(gathered, stored, &asked, SystemClock.now());
        outcome.set_sources(&context.sources);
        self.output.show(&outcome, context)
    }

    /// A signal ends the examination after its Secrets are deleted.
    fn gather(&self, settings: &Settings) -> Result<Gathered, Failure> {
        runtime()?.block_on(async {
            // Handled, so that it cannot leave a Secret behind.
            let _stop = lifecycle::stop_signal(Hangup::Stops).map_err(Failure::Runtime)?;
            let api = self.cluster.connect(None).await;
            let api = api.map_err(RewriteFailure::Connect)?;
            let apis = self.cluster.connect_each(&api).await?;
            Ok(rollout::examine(&apis, settings).await)
        })
    }

    /// Objects in the running etcd that need another provider, of the resources that the files protect.
    /// Without the file of each API server the resources are unknown.
    fn stored(&self, gathered: &Gathered, files: &[Ruled]) -> Result<Stored, EtcdError> {
        // A snapshot is older than the cluster.
        let Some(live) = self.etcd.live()? else {
            return Ok(Stored::Uncounted(Uncounted::NoRunningEtcd));
        };
        let hashes = gathered.servers.iter().map(|it| &it.configuration_hash);
        let Some(hashes) = hashes.map(Option::as_ref).collect::<Option<Vec<_>>>() else {
            return Ok(Stored::Uncounted(Uncounted::NoHash));
        };
        let of = |hash: &&String| files.iter().find(|file| file.hash == **hash);
        let files: Option<Vec<&Ruled>> = hashes.iter().map(of).collect();
        let (Some(files), Some(provider)) = (files, &gathered.provider) else {
            return Ok(Stored::Uncounted(Uncounted::NoFile));
        };
        let protected = |resource: &str| {
            let resource = without_prefix(resource);
            files.iter().any(|file| file.protects(resource, provider))
        };
        let wanted = Wanted {
            revisions: Revisions::Newest,
            prefix: self.etcd.prefix(),
            names: false,
        };
        let inventory = reading(|on_progress| {
            Inventory::gather(&EtcdSource::Live(live), &wanted, on_progress)
        })?;
        if inventory.has_open_keys() {
            return Ok(Stored::Uncounted(Uncounted::Unread));
        }
        let ours = Protected::KmsV2(provider.clone());
        let resources = inventory.resources.iter();
        let resources = resources.filter(|(name, _)| protected(name));
        let rows = resources.flat_map(|(_, rows)| rows);
        let others = rows.filter(|(protected, _)| **protected != ours);
        Ok(Stored::Others(others.map(|(_, count)| count.objects).sum()))
    }
}
