//! View of the reloaded files by the running process: the JWT and the CA bundle. A separate command
//! cannot provide it, being outside the sandbox of the process.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::fs::{Mode, OFlags};
use tokio::{sync::watch, task, time::interval};

use super::sandbox::is_outside;
use crate::{clock::Clock, config::Config};

/// Why a file cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFault {
    Missing,
    /// Its directory was replaced, and the new one is outside the sandbox: restart the service.
    Sandbox,
    /// Owner or mode of the file, or of a directory above it, forbid it.
    Permission,
    /// Any other error of the system.
    Io,
}

/// One file as the process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileView {
    /// The setting with the path of the file.
    pub setting: &'static str,
    pub path: PathBuf,
    /// Why it cannot be opened; `None` if it can.
    pub fault: Option<FileFault>,
    /// Time of the last change of `fault`, by the wall clock.
    pub since: SystemTime,
}

/// Reads the latest view of all files, without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FilesView(watch::Receiver<Vec<FileView>>);

impl FileFault {
    /// The word for the log and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Sandbox => "sandbox",
            Self::Permission => "permission",
            Self::Io => "io",
        }
    }

    /// Tries to open `file`, without reading it. Blocks on the file system.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        // Without NONBLOCK, opening a FIFO in place of the file would block the thread.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(file, flags, Mode::empty());
        opened.err().map(|errno| Self::behind(&errno.into(), file))
    }

    /// The cause of an `error` from opening `file`. Blocks on the file system.
    #[must_use]
    pub fn behind(error: &io::Error, file: &Path) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::PermissionDenied if is_outside(file) => Self::Sandbox,
            ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Io,
        }
    }
}

impl FilesView {
    /// The files in a fixed order; empty before the first check.
    #[must_use]
    pub fn latest(&self) -> Vec<FileView> {
        self.0.borrow().clone()
    }
}

/// Creates the view, and the task that updates it every `period` and logs changes. A single thread
/// checks the files: a hanging mount blocks this thread only, and the view stays unchanged.
pub fn follow(
    config: &Config,
    clock: Arc<dyn Clock>,
    period: Duration,
) -> (FilesView, impl Future<Output = ()> + Send + use<>) {
    let mut files = vec![("openbao.caCertFile", config.openbao.ca_cert_file.clone())];
    let credentials = config.auth.credential_files().into_iter();
    files.extend(credentials.map(|(setting, path)| (setting, path.to_owned())));
    let (publish, view) = watch::channel(Vec::new());
    let following = async move {
        let mut period = interval(period);
        loop {
            period.tick().await;
            let (paths, before) = (files.clone(), publish.borrow().clone());
            let now = clock.now();
            let looked = task::spawn_blocking(move || look(paths, &before, now)).await;
            if let Ok(now) = looked {
                log_changes(&publish.borrow(), &now);
                publish.send_replace(now);
            }
        }
    };
    (FilesView(view), following)
}

fn look(
    files: Vec<(&'static str, PathBuf)>,
    before: &[FileView],
    now: SystemTime,
) -> Vec<FileView> {
    let view = |(setting, path): (&'static str, PathBuf)| {
        let fault = FileFault::of(&path);
        let unchanged = before
            .iter()
            .find(|view| view.setting == setting && view.fault == fault);
        FileView {
            setting,
            fault,
            since: unchanged.map_or(now, |view| view.since),
            path,
        }
    };
    files.into_iter().map(view).collect()
}

fn log_changes(before: &[FileView], now: &[FileView]) {
    for view in now {
        let former = before.iter().find(|former| former.setting == view.setting);
        let former = former.and_then(|former| former.fault);
        if former == view.fault {
            continue;
        }
        let setting = view.setting;
        match view.fault {
            Some(fault) => tracing::warn!(setting, reason = fault.as_str(), "file.unreadable"),
            None => tracing::info!(setting, "file.readable"),
        }
    }
}
