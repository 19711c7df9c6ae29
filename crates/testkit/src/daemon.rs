//! A program that runs beside a test, with its output in a file.

#![expect(clippy::unwrap_used, reason = "a test without its server has failed")]
#![expect(
    clippy::print_stdout,
    reason = "the harness shows it beside the failure"
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

/// How much of a log a failed test shows.
const LAST_LINES: usize = 30;

/// Generous: many tests share two processors.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Killed when dropped, and when the test's process ends in whatever way.
pub(crate) struct Daemon {
    child: GuardedChild,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Runs the program; `log` is emptied first.
    pub(crate) fn spawn(program: &Path, arguments: &[String], log: &Path) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = File::create(log).unwrap();
        Self {
            child: GuardedChild::spawn(program, &arguments, output).unwrap(),
            name: program.display().to_string(),
            log: log.to_owned(),
        }
    }

    /// Waits until the program answers as it should.
    ///
    /// # Panics
    /// When it ends instead.
    pub(crate) async fn ready(&mut self, mut answers: impl AsyncFnMut() -> bool) {
        let awaited = format!("an answer of {}", self.name);
        wait_until(SOON, &awaited, async || {
            let ended = self.child.exited().unwrap();
            assert!(ended.is_none(), "{} ended: {}", self.name, self.log());
            answers().await
        })
        .await;
    }

    /// Asks the program to stop and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.child.ask_to_stop().unwrap();
        let awaited = format!("the end of {}", self.name);
        wait_until(SOON, &awaited, async || {
            self.child.exited().unwrap().is_some()
        })
        .await;
    }

    /// Everything it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    /// A failed test shows what its servers said last.
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(log) = fs::read_to_string(&self.log)
        {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.len().saturating_sub(LAST_LINES);
            let said = lines.get(last..).unwrap_or_default().join("\n");
            println!("--- {} said last:\n{said}", self.name);
        }
    }
}

/// The program that the environment variable names, else the one that `cargo xtask tools` put into
/// `target/tools`.
///
/// # Panics
/// When there is none, with the command that installs it.
#[track_caller]
pub(crate) fn program(variable: &str, installed: &str, install: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
    let named = env::var_os(variable).filter(|path| !path.is_empty());
    let path = named.map_or_else(|| tools.join(installed), PathBuf::from);
    assert!(
        path.is_file(),
        "no program at {}; install it with `{install}`, or name another in {variable}",
        path.display()
    );
    path
}
