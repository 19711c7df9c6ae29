//! `recover-state`: rebuilds a lost or damaged registry state from evidence.

use std::{num::NonZeroU64, path::PathBuf};

use clap::Args;
use kms_domain::{
    recovery::rebuild::PlanHash, registry::document::StateHash, transit::TransitVersion,
};
use kms_node::clock::{Clock as _, SystemClock};
use kms_operator::{
    attestation::statement::{Findings, Role},
    recovery::{
        recover_state::{self, Applied, Request, read_peer, read_record},
        recovery_report::{Run, Typed},
    },
};

use super::{
    Context, Exit, Failure, OutputFlag,
    attest_flags::{AttestFlags, attest},
    etcd_source::EvidenceFlags,
    openbao_flags::TokenFlags,
    progress::watching,
    review::become_owner,
};

/// Rebuild a lost or damaged registry state from evidence, after the key was rotated
///
/// Without --apply it shows a plan and its hash, and changes nothing. Evidence is etcd data, backup
/// records and copies of peers' states; more of it is better. Every key_id in it must be a version
/// of the key, and every encrypted DEK must decrypt, but for objects that are accepted as unreadable.
/// Exit code 4 when the evidence does not lead to
/// a state that is safe to serve with, 5 when that could not be established.
#[derive(Debug, Args)]
pub(super) struct Options {
    // First, so that it comes before the headings.
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    token: TokenFlags,
    #[command(flatten)]
    etcd: EvidenceFlags,
    /// A record that record-backup wrote; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    record: Vec<PathBuf>,
    /// A copy of a peer's state, its checkpoint beside it as FILE.checkpoint; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Evidence")]
    peer_state: Vec<PathBuf>,
    /// Try at most N distinct encrypted DEKs of each key_id [default: all]
    #[arg(long, value_name = "N", help_heading = "Evidence")]
    sample: Option<NonZeroU64>,
    /// Assert that no node has promoted version N or one above it
    #[arg(long, value_name = "N", value_parser = version, help_heading = "Evidence")]
    assume_not_promoted: Option<TransitVersion>,
    /// Accept that exactly N objects in etcd stay unreadable, as shown by a plan that was refused
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "sample",
        help_heading = "Evidence"
    )]
    accept_unreadable: Option<NonZeroU64>,
    /// Name the first few objects that stay unreadable
    #[arg(long, help_heading = "Evidence")]
    show_names: bool,
    /// Give up a valid state
    #[arg(long, requires = "expected_state_hash", help_heading = "Change")]
    replace: bool,
    /// The hash of the state to be given up
    #[arg(
        long,
        value_name = "HASH",
        requires = "replace",
        value_parser = state_hash,
        help_heading = "Change"
    )]
    expected_state_hash: Option<StateHash>,
    /// Give up a state or checkpoint that a newer release wrote
    #[arg(long, help_heading = "Change")]
    replace_newer_release: bool,
    /// Carry the plan out; the provider must be stopped
    #[arg(long, requires = "expected_plan_hash", help_heading = "Change")]
    apply: bool,
    /// The planHash of the plan that was reviewed
    #[arg(
        long,
        value_name = "HASH",
        requires = "apply",
        value_parser = plan_hash,
        help_heading = "Change"
    )]
    expected_plan_hash: Option<PlanHash>,
    #[command(flatten)]
    attest: AttestFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.token.apply(context);
        let loaded = context.load()?;
        let config = &loaded.config;
        config.auth.supported()?;
        let sources = self.etcd.sources()?;
        let options = sources.iter().map(|it| (it.name(), self.etcd.options(it)));
        const PLANNING: [(&str, bool); 4] = [
            ("--apply", false),
            ("--expected-plan-hash", true),
            ("--sample", true),
            ("--accept-unreadable", true),
        ];
        let without = |more: &[(&str, bool)]| context.typed_without(&[&PLANNING, more].concat());
        let typed = Typed {
            whole: context.line.typed.clone(),
            planning: without(&[]),
            keeping: without(&[("--replace", false), ("--expected-state-hash", true)]),
            unassumed: without(&[("--assume-not-promoted", true)]),
            unbounded: without(&[("--etcd-prefix-only", false)]),
            etcd: options.collect(),
        };
        let records = self.record.iter().map(PathBuf::as_path).map(read_record);
        let mut peers = Vec::new();
        for path in &self.peer_state {
            peers.push(read_peer(path, &config.state_path));
        }
        let mut request = Request {
            etcd: sources,
            prefix: self.etcd.prefix(),
            records: records.collect(),
            peers,
            sample: self.sample,
            replace: self.expected_state_hash,
            replace_newer_release: self.replace_newer_release,
            not_promoted: self.assume_not_promoted,
            accepted: self.accept_unreadable,
            names: self.show_names,
        };
        // The new state is a file, too.
        let has_file =
            self.etcd.has_file() || !self.record.is_empty() || !self.peer_state.is_empty();
        self.attest.require_subject(has_file || self.apply)?;
        let attestor = self.attest.attestor(config)?;
        become_owner(config);
        if let Some(attestor) = &attestor {
            attestor.require_writable()?;
        }
        let now = SystemClock.now();
        let run = Run {
            loaded: &loaded,
            typed: &typed,
            now,
        };
        let mut findings = Findings::default();
        let mut outcome = match &self.expected_plan_hash {
            None => {
                let planned = watching(|watch| recover_state::plan(config, &mut request, watch));
                findings.add_evidence(&planned.items);
                run.planned(&planned)
            }
            Some(reviewed) => {
                match watching(|watch| {
                    recover_state::apply(config, &mut request, reviewed, now, watch)
                })? {
                    Applied::Rebuilt(weighed) => {
                        findings.add_evidence(&weighed.items);
                        findings.add_path(Role::RegistryState, &config.state_path.document());
                        run.applied(&weighed)
                    }
                    Applied::Continued(done) => {
                        findings.add_journal(&done.1);
                        findings.add_path(Role::RegistryState, &config.state_path.document());
                        run.continued(&done.0, &done.1)
                    }
                    Applied::Refused(weighed) => {
                        findings.add_evidence(&weighed.items);
                        run.refused(&weighed)
                    }
                }
            }
        };
        outcome.set_sources(&context.sources);
        let shown = self.output.show(&outcome, context);
        attest(attestor.as_ref(), config, &outcome, findings, shown)
    }
}

fn version(text: &str) -> Result<TransitVersion, &'static str> {
    TransitVersion::parse(text).ok_or("must be a version of the key, from 1")
}

fn state_hash(text: &str) -> Result<StateHash, &'static str> {
    StateHash::parse(text).map_err(|_| "must be krs1. and 43 characters, as inspect-state shows it")
}

fn plan_hash(text: &str) -> Result<PlanHash, &'static str> {
    PlanHash::parse(text).map_err(|_| "must be rbp1. and 43 characters, as the plan shows it")
}
