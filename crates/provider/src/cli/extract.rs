//! `extract`: single objects of a backup as manifests.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_domain::recovery::claims::VersionClaims;
use kms_extract::{
    error::ExtractError,
    extraction::{Extraction, Target},
    local::LocalKeys,
    report::Frame,
    select::{SelectError, Selection},
};
use kms_node::{
    advice::{
        Site,
        site::{quoted, shell},
    },
    clock::{Clock as _, SystemClock},
    config::Loaded,
};
use kms_operator::recovery::local_knowledge::LocalKnowledge;

use super::{
    Context, Exit, Failure, OutputFlag, etcd_source::EtcdFlags, openbao_flags::OpenBaoFlags,
    progress::reading,
};

/// Bring back single objects: write them as manifests for kubectl
///
/// Reads the etcd snapshot or the running etcd, decrypts the selected objects with the OpenBao of
/// the configuration, and writes each as YAML into a new directory that only its owner can read.
/// Changes neither etcd nor the cluster. If an object is refused, nothing is written. If OpenBao is lost,
/// drill --keep restores a copy of it from a snapshot, and prints the options for this command. Exit code
/// 4 when an object is refused or none fits, 5 when etcd or OpenBao gave no answer.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    etcd: EtcdFlags,
    /// Etcd revision to read, for objects that were deleted or changed later; compaction limits it
    /// [default: the newest]
    #[arg(
        long,
        value_name = "REVISION",
        value_parser = clap::value_parser!(i64).range(1..),
        help_heading = "Etcd"
    )]
    revision: Option<i64>,
    #[command(flatten)]
    selection: SelectionFlags,
    /// EncryptionConfiguration with the keys of objects under aescbc, aesgcm or secretbox
    #[arg(long, value_name = "FILE", help_heading = "Selection")]
    encryption_config: Option<PathBuf>,
    #[command(flatten)]
    target: TargetFlags,
    #[command(flatten)]
    openbao: OpenBaoFlags,
    #[command(flatten)]
    output: OutputFlag,
}

/// Values may have the wildcards `*` and `?`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Selection")]
struct SelectionFlags {
    /// Resource in the plural, such as secrets or widgets.example.org; repeatable, with wildcards
    #[arg(
        long,
        value_name = "RESOURCE",
        required_unless_present = "all_in_namespace"
    )]
    resource: Vec<String>,
    /// Namespace of the objects; repeatable, with wildcards [default: all]
    #[arg(long, value_name = "NAMESPACE", requires = "resource")]
    namespace: Vec<String>,
    /// Name of an object; repeatable, with wildcards [default: all]
    #[arg(long, value_name = "NAME", requires = "resource")]
    name: Vec<String>,
    /// Also every object in this namespace; repeatable, with wildcards
    #[arg(long, value_name = "NAMESPACE")]
    all_in_namespace: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
#[group(id = "target", required = true, multiple = false)]
struct TargetFlags {
    /// New or empty directory for the manifests; it and the files are closed to other users
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Show names, revisions and sizes, and decrypt nothing
    #[arg(long)]
    list: bool,
    /// Compare with the cluster of this kubeconfig, and write nothing: which objects are missing there,
    /// and which are different
    #[arg(long, value_name = "KUBECONFIG", value_delimiter = ':')]
    diff: Vec<PathBuf>,
    /// Write the manifests to standard output, which a terminal or a program may keep
    #[arg(long)]
    to_stdout_i_accept: bool,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        self.openbao.apply(context);
        // Names need no configuration, nor do objects in plaintext or under local keys.
        let is_named = context.flags.config.is_some();
        let needs_none = self.target.list && !is_named;
        let (loaded, unloaded) = match (!needs_none).then(|| context.load()) {
            None => (None, None),
            Some(Ok(loaded)) => (Some(loaded), None),
            Some(Err(failure)) if is_named => return Err(failure.into()),
            Some(Err(failure)) => (None, Some(failure)),
        };
        if let Some(loaded) = &loaded {
            loaded.config.auth.supported()?;
        }
        let config = loaded.as_ref().map(|loaded| &loaded.config);
        let path = loaded.as_ref().map_or(Path::new(""), |loaded| &loaded.path);
        let etcd = self.etcd.options();
        let site = Site::new(path, config).with_etcd(&etcd);
        let selected = self.selection_options();
        let kubeconfig = std::env::join_paths(&self.target.diff).ok();
        let kubeconfig = kubeconfig.filter(|it| !it.is_empty());
        let kubeconfig = kubeconfig.map(|files| shell(Path::new(&files)));
        let frame = Frame {
            config,
            site: &site,
            selection: &selected,
            kubeconfig: kubeconfig.as_deref(),
            now: SystemClock.now(),
        };
        let selection = self.selection();
        let keys = self.encryption_config.as_deref().map(LocalKeys::read);
        let extracted = keys
            .transpose()
            .map_err(ExtractError::Keys)
            .and_then(|keys| {
                let source = self.etcd.source(None).map_err(SelectError::Etcd)?;
                let source = match self.revision {
                    Some(revision) => source.at(revision),
                    None => source,
                };
                let keys = keys.unwrap_or_default();
                let flags = &self.target;
                let target = match &flags.output_dir {
                    // Without a slash at the end, which would follow a link.
                    Some(directory) => Target::Directory(directory.components().collect()),
                    None if flags.list => Target::List,
                    None if !flags.diff.is_empty() => Target::Diff(&flags.diff),
                    None => Target::Stream(&mut *context.out),
                };
                reading(|on_progress| {
                    let extraction = Extraction {
                        config,
                        source: &source,
                        selection: &selection,
                        keys: &keys,
                        claims: loaded.as_ref().map(claims).unwrap_or_default(),
                        on_progress,
                    };
                    extraction.run(target, frame)
                })
            });
        let mut outcome = match extracted {
            // The manifests are the output.
            Ok(outcome) if self.target.to_stdout_i_accept && outcome.exit() == Exit::Success => {
                return Ok(Exit::Success);
            }
            Ok(outcome) => outcome,
            Err(ExtractError::NoConfig) if let Some(failure) = unloaded => {
                return Err(failure.into());
            }
            Err(error) => match error {
                ExtractError::Select(SelectError::Etcd(error)) if error.is_misuse() => {
                    return Err(error.into());
                }
                error => frame.failed(&error),
            },
        };
        outcome.set_sources(&context.sources);
        self.output.show(&outcome, context)
    }

    /// The options that select the objects and open them, as a shell takes them.
    fn selection_options(&self) -> String {
        let flags = &self.selection;
        let lists = [
            ("resource", &flags.resource),
            ("namespace", &flags.namespace),
            ("name", &flags.name),
            ("all-in-namespace", &flags.all_in_namespace),
        ];
        let lists = lists
            .into_iter()
            .flat_map(|(option, values)| values.iter().map(move |value| (option, quoted(value))));
        let revision = self.revision.map(|it| ("revision", it.to_string()));
        let keys = self.encryption_config.as_deref();
        let keys = keys.map(|path| ("encryption-config", shell(path)));
        let all = lists.chain(revision).chain(keys);
        let all: Vec<_> = all
            .map(|(option, value)| format!("--{option} {value}"))
            .collect();
        all.join(" ")
    }

    fn selection(&self) -> Selection {
        let flags = &self.selection;
        Selection {
            prefix: self.etcd.prefix(),
            resources: flags.resource.clone(),
            namespaces: flags.namespace.clone(),
            names: flags.name.clone(),
            whole_namespaces: flags.all_in_namespace.clone(),
            revision: self.revision,
        }
    }
}

/// Versions from the state of this node.
fn claims(loaded: &Loaded) -> Vec<VersionClaims> {
    LocalKnowledge::gather(&loaded.config, &loaded.path, None).claims()
}
