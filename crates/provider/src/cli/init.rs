//! `init`: every file of an installation, from a few values.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use kms_install::{
    directory::{self, WriteError},
    files::{self, Installation},
    plan::{Model, Plan, PlanError},
    questions::{self, QuestionError},
    values::{Values, ValuesError},
};
use kms_node::{
    advice::{NextStep, site::shell},
    clock::{Clock as _, SystemClock},
    report::{
        counted,
        outcome::{Outcome, PASSED},
        table::Table,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Exit, Failure, OutputFlag};

/// Make every file of an installation: provider, OpenBao, kube-apiserver and monitoring
///
/// Values come from --values, --cluster, --openbao-address and --set; on a terminal the missing ones are
/// asked for. Nothing is sent to OpenBao, nothing is overwritten, and no file holds a secret. The same
/// values give the same files.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// File with values, in the format of the provider's configuration; settings may be missing
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
    /// Name of the cluster: transit.keyIdScope.clusterId
    #[arg(long, value_name = "ID")]
    cluster: Option<String>,
    /// Address of OpenBao: openbao.address
    #[arg(long, value_name = "URL")]
    openbao_address: Option<String>,
    /// Another setting, such as auth.jwt.expectedSubject=kms; repeatable
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Make the lineage of a new key; without it, the values name the lineage of an existing one
    #[arg(long)]
    new_key: bool,
    /// Directory for the files, absent or empty
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// How the provider runs on a node
    #[arg(long, value_enum, default_value_t, value_name = "MODEL")]
    model: ModelName,
    /// Image of the static pod: repository@sha256:DIGEST
    #[arg(long, value_name = "IMAGE", required_if_eq("model", "static-pod"))]
    image: Option<String>,
    /// Number of the group with access to the socket, for the static pod
    #[arg(long, value_name = "GID", required_if_eq("model", "static-pod"))]
    socket_gid: Option<u32>,
    /// Name of the policy in OpenBao [default: openbao-kms-CLUSTER]
    #[arg(long, value_name = "NAME")]
    policy_name: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ModelName {
    /// The packaged systemd unit
    #[default]
    Systemd,
    /// A static pod of kubelet
    StaticPod,
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("cannot read the file of values {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Values(#[from] ValuesError),
    #[error(transparent)]
    Questions(#[from] QuestionError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl InitError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Values(ValuesError::NotYaml(_)) | Self::Plan(_) => Exit::Configuration,
            Self::Values(_) | Self::Questions(QuestionError::Values(_)) => Exit::Usage,
            Self::Unreadable { .. } | Self::Questions(_) | Self::Write(_) => Exit::Unclassified,
        }
    }
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let (plan, made) = self.make()?;
        let outcome = outcome(&plan, made, &self.out);
        self.output.show(&outcome, context)
    }

    fn make(&self) -> Result<(Plan, Installation), InitError> {
        let values = self.gather()?;
        let model = match (self.model, &self.image, self.socket_gid) {
            (ModelName::StaticPod, Some(image), Some(socket_gid)) => Model::StaticPod {
                image: image.clone(),
                socket_gid,
            },
            _ => Model::Systemd,
        };
        let plan = Plan::new(values, model, self.policy_name.clone())?;
        let files = files::all(&plan)?;
        directory::write(&self.out, &files)?;
        let made = Installation::of(&plan, &files);
        Ok((plan, made))
    }

    fn gather(&self) -> Result<Values, InitError> {
        let mut values = match &self.values {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|source| InitError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
                Values::parse(&text)?
            }
            None => Values::default(),
        };
        let named = [
            ("transit.keyIdScope.clusterId", &self.cluster),
            ("openbao.address", &self.openbao_address),
        ];
        for (path, value) in named {
            if let Some(value) = value {
                values.replace(path, value.as_str());
            }
        }
        for assignment in &self.set {
            values.set(assignment)?;
        }
        if self.new_key {
            values.new_lineage()?;
        }
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            questions::ask(&mut values, &mut io::stdin().lock(), &mut io::stderr())?;
        }
        Ok(values)
    }
}

/// The members of `init`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Init {
    directory: PathBuf,
    installation: Installation,
}

fn outcome(plan: &Plan, installation: Installation, directory: &Path) -> Outcome<Init> {
    let mut files = Table::new("files", ["file", "mode", "purpose"]);
    for file in &installation.files {
        files.row([file.name, &file.mode, file.purpose]);
    }
    let mut identity = Table::new("identity", ["name", "value"]);
    let config = &plan.loaded.config;
    identity.row(["identityFingerprint", config.fingerprint().as_str()]);
    identity.row(["keyLineageId", config.scope.key_lineage_id.as_str()]);
    // The summary itself is a file as well.
    let count = counted(installation.files.len() + 1, "file");
    let headline = format!("{count} in {}", shell(directory));
    let members = Init {
        directory: directory.to_owned(),
        installation,
    };
    let mut outcome = Outcome::new("init", SystemClock.now(), members);
    outcome.identify(&config.fingerprint());
    outcome.conclude(PASSED, Exit::Success, headline);
    outcome.add_table(identity);
    outcome.add_table(files);
    outcome.add_steps(steps(plan, directory));
    outcome
}

/// The commands that follow, up to the flags of the API servers.
fn steps(plan: &Plan, directory: &Path) -> [NextStep; 4] {
    let script = shell(&directory.join("openbao-setup.sh"));
    // A command without a directory would be looked up in PATH.
    let script = match script.contains('/') {
        true => script,
        false => format!("./{script}"),
    };
    let directory = shell(directory);
    let (program, image) = match plan.model {
        Model::Systemd => ("package", ""),
        Model::StaticPod { .. } => ("program", " and the image"),
    };
    let prepare = format!(
        "on every node, with the {program}{image} installed and a copy of the directory, put its files in \
         place"
    );
    [
        NextStep::run("prepare OpenBao once, as an administrator", script),
        NextStep::run(
            prepare,
            format!(
                "sudo bao-kms-provider node prepare {directory} {} --apply",
                plan.operator_files()
            ),
        ),
        NextStep::run(
            "then start the provider, and wait until it is ready",
            format!("sudo bao-kms-provider node start {directory} --apply"),
        ),
        NextStep::act(
            "when every node is ready, give each API server its new flags; installation.json lists the \
             actions",
        ),
    ]
}
