//! A program that runs beside a test, with its output in a file.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]
#![expect(
    clippy::print_stdout,
    reason = "the test harness prints it with the failure"
)]

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use openbao_lab::child::GuardedChild;

use crate::wait::wait_until;

/// Log lines printed by a failed test.
const LAST_LINES: usize = 30;

/// Generous: many tests share two processors.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A running program. Drop kills it, and so does any end of the test process.
pub(crate) struct Daemon {
    child: GuardedChild,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts the program and truncates `log`.
    pub(crate) fn spawn(program: &Path, arguments: &[String], log: &Path) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = File::create(log).unwrap();
        Self {
            child: GuardedChild::spawn(program, &arguments, output).unwrap(),
            name: program.display().to_string(),
            log: log.to_owned(),
        }
    }

    /// Waits until `answers` returns true.
    ///
    /// # Panics
    /// When the program ends first.
    pub(crate) async fn ready(&mut self, mut answers: impl AsyncFnMut() -> bool) {
        let awaited = format!("a response of {}", self.name);
        wait_until(SOON, &awaited, async || {
            let ended = self.child.exited().unwrap();
            assert!(ended.is_none(), "{} ended: {}", self.name, self.log());
            answers().await
        })
        .await;
    }

    /// Whether the program has ended.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.exited().unwrap().is_some()
    }

    /// Sends a stop signal and waits for the end of the program.
    pub(crate) async fn stop(mut self) {
        self.child.ask_to_stop().unwrap();
        let awaited = format!("the end of {}", self.name);
        wait_until(SOON, &awaited, async || {
            self.child.exited().unwrap().is_some()
        })
        .await;
    }

    /// The output so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    /// Prints the last log lines if the test failed.
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(log) = fs::read_to_string(&self.log)
        {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(LAST_LINES);
            let said = lines.get(last..).unwrap_or_default().join("\n");
            println!("--- last output of {}:\n{said}", self.name);
        }
    }
}

/// The program named by the environment variable, else the one installed by `cargo xtask tools` in
/// `target/tools`.
///
/// # Panics
/// When the program is missing. The message has the command to install it.
#[track_caller]
pub(crate) fn program(variable: &str, installed: &str, install: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
    let named = env::var_os(variable).filter(|path| !path.is_empty());
    let path = named.map_or_else(|| tools.join(installed), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing; install it with `{install}`, or set {variable} to its path",
        path.display()
    );
    path
}
