//! `support-bundle`: one archive for a colleague, with reports, settings, answers of the running
//! provider and the end of its log.
//!
//! A part that cannot be gathered is named instead: the command is for nodes on which little works.

mod archive;
mod files;
mod log;
mod redact;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use jiff::Timestamp;
use kms_domain::digest::sha256_hex;
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::{Listener, LoadError, Loaded, packaged_unit},
    plain_http::{self, GetError, HttpUrl},
    report::{Output, counted, one_line, outcome::Outcome, table::Table, text::Look},
    state::disk::{self, DiskError},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Context, Exit, Failure, OutputFlag, runtime};

const COMMAND: &str = "support-bundle";
const MANIFEST: &str = "manifest.json";
const EXTENSION: &str = ".tar.gz";
/// The commands whose reports are parts. `triage` is first: it names the cause.
const REPORTS: [&str; 5] = ["triage", "doctor", "config", "inspect-state", "version"];
/// Paths on the two listeners of the provider, with their parts.
const HEALTH: [(&str, &str); 3] = [
    ("/ready", "ready.json"),
    ("/live", "live.json"),
    ("/why", "why.json"),
];
const METRICS: (&str, &str) = ("/metrics", "metrics.txt");
/// The provider answers from memory.
const LIMIT: Duration = Duration::from_secs(5);
const NOT_WAIT: &str = "do not wait for a complete bundle: it names each missing part";

/// Collect reports, settings, metrics and the end of the log in one archive, free of secrets
///
/// Runs triage, doctor, config, inspect-state and version, asks the running provider for its metrics
/// and its view, and reads the end of the log. Changes nothing on the node, and works also when the
/// provider or OpenBao is down: a missing part is named in the archive and in the result. Run it as
/// root. Exit code 0 when the archive is written, 1 when it is not.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The new archive, with mode 0600 [default: bao-kms-support-HOST-TIME.tar.gz]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A log of the provider [default: the journal of the unit with this configuration]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let now = SystemClock.now();
        let path = self.file.clone().unwrap_or_else(|| default_name(now));
        // Found again on writing; this only spares the wait.
        if path.symlink_metadata().is_ok() {
            return Err(Failure::BundleFile(DiskError::Exists { path }));
        }

        let loaded = context.load();
        let mut parts = Parts::default();
        parts.add_reports(context);
        parts.add_files(&loaded);
        parts.add_answers(&loaded)?;
        let unit = packaged_unit(&context.flags.config_path(context.environment));
        parts.add_log(self.log.as_deref(), &unit);

        let directory = directory_in(&path);
        let mut outcome = parts.outcome(path, now);
        outcome.identify_with(loaded.as_ref().ok().map(|loaded| &loaded.config));
        let mut manifest = Vec::new();
        Output::Json.write(&outcome, Look::default(), &mut manifest)?;
        let contents = parts.contents.iter();
        let contents = contents.map(|(name, text)| (name.as_str(), text.as_bytes()));
        let contents: Vec<_> = [(MANIFEST, &*manifest)]
            .into_iter()
            .chain(contents)
            .collect();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let archive = archive::pack(&directory, seconds, &contents)?;
        disk::create_private(&outcome.result.path, &archive).map_err(Failure::BundleFile)?;
        outcome.add_table(parts_table(&outcome.result));
        self.output.show(&outcome, context)
    }
}

/// The members of `support-bundle`, which are also those of `manifest.json` in the archive.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bundle {
    path: PathBuf,
    /// The files in the archive, in its order; without this manifest.
    parts: Vec<PartRow>,
    /// Parts that could not be gathered.
    missing: Vec<MissingRow>,
    /// Words of the form of a credential or a ciphertext that were replaced by `[redacted]`.
    redacted_words: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PartRow {
    name: String,
    bytes: usize,
    /// Hex, as `sha256sum` prints it.
    sha256: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MissingRow {
    name: String,
    reason: String,
}

#[derive(Default)]
struct Parts {
    contents: Vec<(String, String)>,
    missing: Vec<MissingRow>,
    redacted: u64,
}

/// Why a listener of the provider gave no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("the configuration is unusable")]
    Configuration,
    /// The listener is disabled, or its port differs at each start.
    #[error("{0} names no port to ask on")]
    NoListener(&'static str),
    #[error(transparent)]
    Get(#[from] GetError),
}

impl Parts {
    fn add(&mut self, name: impl Into<String>, text: &str) {
        let (text, redacted) = redact::redact(text);
        self.redacted = self.redacted.saturating_add(redacted);
        self.contents.push((name.into(), text));
    }

    fn miss(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.missing.push(MissingRow {
            name: name.into(),
            reason: reason.into(),
        });
    }

    fn add_reports(&mut self, context: &Context<'_>) {
        for command in REPORTS {
            let report = context.report(command);
            for (extension, form) in [("txt", report.text), ("json", report.json)] {
                if !form.is_empty() {
                    self.add(
                        format!("{command}.{extension}"),
                        &String::from_utf8_lossy(&form),
                    );
                }
            }
            if let Some(failure) = report.failure {
                self.miss(command, failure);
            }
        }
    }

    fn add_files(&mut self, loaded: &Result<Loaded, LoadError>) {
        const NAME: &str = "files.txt";
        match loaded {
            Ok(loaded) => self.add(NAME, &files::table(loaded).to_string()),
            Err(_) => self.miss(NAME, NoAnswer::Configuration.to_string()),
        }
    }

    fn add_answers(&mut self, loaded: &Result<Loaded, LoadError>) -> Result<(), Failure> {
        let server = loaded.as_ref().ok().map(|loaded| &loaded.config.server);
        let health = server.map(|server| server.health.as_ref());
        let metrics = server.map(|server| server.metrics.as_ref());
        let asked = HEALTH.map(|(path, name)| (health, "server.healthAddress", path, name));
        let asked =
            asked
                .into_iter()
                .chain([(metrics, "server.metricsAddress", METRICS.0, METRICS.1)]);

        let runtime = runtime()?;
        for (listener, setting, path, name) in asked {
            match runtime.block_on(ask(listener, setting, path)) {
                Ok(answer) => self.add(name, &answer),
                Err(error) => self.miss(name, one_line(&error)),
            }
        }
        // A hanging name lookup must not delay the return.
        runtime.shutdown_background();
        Ok(())
    }

    fn add_log(&mut self, file: Option<&Path>, unit: &str) {
        const NAME: &str = "log.txt";
        match log::tail(file, unit) {
            Ok(log) => self.add(NAME, &log),
            Err(error) => self.miss(NAME, one_line(&error)),
        }
    }

    /// The result, and the manifest.
    fn outcome(&mut self, path: PathBuf, now: SystemTime) -> Outcome<Bundle> {
        let parts = self.contents.iter().map(|(name, text)| PartRow {
            name: name.clone(),
            bytes: text.len(),
            sha256: sha256_hex(text.as_bytes()),
        });
        let missing = std::mem::take(&mut self.missing);
        let members = Bundle {
            path,
            parts: parts.collect(),
            missing,
            redacted_words: self.redacted,
        };
        let shown = members.path.display().to_string();
        let parts = counted(members.parts.len(), "part");
        let lost = members.missing.len();
        let mut outcome = Outcome::new(COMMAND, now, members);
        match lost {
            0 => outcome.conclude("complete", Exit::Success, format!("{shown} has {parts}")),
            _ => {
                let headline = format!("{shown} has {parts}, and lacks {lost}");
                outcome.conclude("incomplete", Exit::Success, headline);
                outcome.add_warnings([NOT_WAIT]);
            }
        }
        let missing = Table::of("missing parts", &outcome.result.missing)
            .column("part", |it| &it.name)
            .column("reason", |it| &it.reason);
        outcome.add_table(missing.table());
        outcome
    }
}

fn parts_table(bundle: &Bundle) -> Table {
    let table = Table::of("parts", &bundle.parts)
        .column("part", |it| &it.name)
        .column("bytes", |it| it.bytes)
        .column("sha256", |it| &it.sha256);
    table.table()
}

async fn ask(
    listener: Option<Option<&Listener>>,
    setting: &'static str,
    path: &str,
) -> Result<String, NoAnswer> {
    let listener = listener.ok_or(NoAnswer::Configuration)?;
    let bound = listener
        .map(Listener::bind_to)
        .filter(|(_, port)| *port != 0);
    let url = HttpUrl::local(bound.ok_or(NoAnswer::NoListener(setting))?, path);
    // A provider that is not ready says why, with another status.
    let (_, body) = plain_http::get_any(&url, "*/*", LIMIT).await?;
    Ok(body)
}

/// Sorts by host and time.
fn default_name(now: SystemTime) -> PathBuf {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().replace(
        |it: char| !(it.is_ascii_alphanumeric() || "-.".contains(it)),
        "_",
    );
    let time = Timestamp::try_from(now).unwrap_or_default();
    let time = time.strftime("%Y%m%dT%H%M%SZ");
    format!("bao-kms-support-{host}-{time}{EXTENSION}").into()
}

/// The directory in the archive: its name without the extension, so that several can be unpacked
/// side by side.
fn directory_in(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(EXTENSION).unwrap_or(&name).to_owned()
}
