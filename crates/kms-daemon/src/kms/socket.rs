//! The Unix socket for kube-apiserver. Implements `docs/operate/files.md` section "Socket".
//!
//! Only a dead socket is ever removed: one in the provider's directory that refuses connections.

use std::{
    fs,
    future::Future as _,
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use kms_node::{
    node_files::{Drift, socket_drift},
    state::Holder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    time::{self, Sleep, sleep},
};

use super::{
    authority::{AuthorityRewriter, PREFACE_BYTES},
    clients::Client,
};

/// Time for an existing socket to accept a connection and show that it is in use.
const DIAL_TIMEOUT: Duration = Duration::from_millis(250);

/// Path and permissions of the socket.
#[derive(Debug, Clone)]
pub struct SocketSettings {
    /// An absolute path.
    pub path: PathBuf,
    pub mode: u32,
    /// The group with access to the socket.
    pub gid: u32,
}

/// Why the socket cannot be bound. The existing file is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is missing or inaccessible.
    #[error("cannot use the socket directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The permissions of the directory let others replace the socket.
    #[error(
        "the socket directory {} is unsafe: {rule} (found owner {uid}, mode {mode:04o})",
        path.display()
    )]
    UnsafeDirectory {
        path: PathBuf,
        /// The violated rule.
        rule: &'static str,
        uid: u32,
        mode: u32,
    },
    /// The path is a file of another type.
    #[error("{} exists and is not a socket: it stays in place", path.display())]
    NotASocket { path: PathBuf },
    /// Another process accepts connections on the socket.
    #[error(
        "{} serves {}",
        match listener {
            Some(listener) => listener.to_string(),
            None => "another process".to_owned(),
        },
        path.display()
    )]
    InUse {
        path: PathBuf,
        /// `None` outside this PID namespace.
        listener: Option<Holder>,
    },
    /// A connection attempt neither succeeded nor was refused.
    #[error("the use of {} is unknown, so it stays in place", path.display())]
    Undecided {
        path: PathBuf,
        /// The result of the connection attempt.
        #[source]
        source: io::Error,
    },
    /// The listener passed by systemd differs from the configuration.
    #[error(
        "the socket that systemd passed cannot be used for {}: {rule}; nothing was served",
        path.display()
    )]
    Activated {
        path: PathBuf,
        /// The violated rule.
        rule: String,
    },
    /// Binding, or setting mode and group, failed.
    #[error("cannot {attempt} {}", path.display())]
    Bind {
        /// The attempted operation.
        attempt: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// The bounded word for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "directory",
            Self::UnsafeDirectory { .. } => "unsafe_directory",
            Self::NotASocket { .. } => "not_a_socket",
            Self::InUse { .. } => "in_use",
            Self::Undecided { .. } => "undecided",
            Self::Activated { .. } => "activated",
            Self::Bind { .. } => "bind",
        }
    }
}

/// The listening socket. On drop, the file is removed if this process has bound it; the file of a
/// listener passed by systemd stays.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    settings: SocketSettings,
    /// Device and inode of the file that leads to the listener.
    file: (u64, u64),
    /// Whether the service manager passed the listener.
    activated: bool,
    reclaimed: bool,
}

impl Socket {
    /// Binds the socket, after removing a dead one at the same path.
    ///
    /// The process must run with umask 077 to block other users between binding and setting the
    /// mode.
    ///
    /// # Errors
    /// See [`SocketError`]; an existing file stays, except a dead socket.
    pub async fn bind(settings: &SocketSettings) -> Result<Self, SocketError> {
        let path = settings.path.clone();
        check_directory(&path, &[own_uid()])?;
        let reclaimed = reclaim(&path).await?;
        let failed = |attempt| {
            let path = path.clone();
            move |source| SocketError::Bind {
                attempt,
                path,
                source,
            }
        };

        let listener = UnixListener::bind(&path).map_err(failed("bind"))?;
        let bound = fs::symlink_metadata(&path).map_err(failed("look at"))?;
        let socket = Self {
            listener,
            settings: settings.clone(),
            file: (bound.dev(), bound.ino()),
            activated: false,
            reclaimed,
        };

        chown(&path, None, Some(settings.gid)).map_err(failed("set the group of"))?;
        let mode = fs::Permissions::from_mode(settings.mode);
        fs::set_permissions(&path, mode).map_err(failed("set the mode of"))?;
        Ok(socket)
    }

    /// Adopts the listener passed by systemd, after checking it against the configuration.
    ///
    /// # Errors
    /// [`SocketError::Activated`] or an error of the directory.
    pub fn activated(
        listener: std::os::unix::net::UnixListener,
        settings: &SocketSettings,
    ) -> Result<Self, SocketError> {
        let path = &settings.path;
        check_directory(path, &[own_uid(), 0])?;
        let refused = |rule: String| SocketError::Activated {
            path: path.clone(),
            rule,
        };
        let failed = |error: io::Error| refused(error.to_string());

        let listens = rustix::net::sockopt::socket_acceptconn(&listener);
        if !listens.map_err(|errno| failed(errno.into()))? {
            return Err(refused("it does not listen".to_owned()));
        }

        let address = listener.local_addr().map_err(failed)?;
        if address.as_pathname() != Some(path) {
            let found = match address.as_pathname() {
                Some(found) => found.display().to_string(),
                None => "an address without a path".to_owned(),
            };
            return Err(refused(format!("ListenStream= is {found}")));
        }

        let found = fs::symlink_metadata(path).map_err(failed)?;
        let (mode, expected) = (found.mode() & 0o7777, settings.mode);
        if mode != expected {
            let rule = format!("SocketMode= must be {expected:04o}, found {mode:04o}");
            return Err(refused(rule));
        }
        let (gid, expected) = (found.gid(), settings.gid);
        if gid != expected {
            let rule = format!("SocketGroup= must be group {expected}, found {gid}");
            return Err(refused(rule));
        }

        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            listener: UnixListener::from_std(listener).map_err(failed)?,
            settings: settings.clone(),
            file: (found.dev(), found.ino()),
            activated: true,
            reclaimed: false,
        })
    }

    /// Whether a dead socket was removed before binding.
    #[must_use]
    pub fn reclaimed(&self) -> bool {
        self.reclaimed
    }

    /// Whether systemd owns the socket.
    #[must_use]
    pub fn is_activated(&self) -> bool {
        self.activated
    }

    /// Accepts the next connection. This future is cancel-safe.
    ///
    /// # Errors
    /// Those of `accept(2)`.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Whether the path still leads to this socket.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.settings.path)
            .is_ok_and(|found| self.file == (found.dev(), found.ino()))
    }

    /// Differences of the file and its directory from the settings.
    #[must_use]
    pub fn drift(&self) -> Vec<Drift> {
        let SocketSettings { path, mode, gid } = &self.settings;
        socket_drift(path, *mode, *gid)
    }

    /// Binds the path again after the file bound by this process was removed.
    ///
    /// # Errors
    /// As for [`Socket::bind`]; this socket then stays unchanged.
    pub async fn bind_again(&mut self) -> Result<(), SocketError> {
        let again = Self::bind(&self.settings).await?;
        // The new file may reuse the inode of the old one; dropping the old socket must not remove
        // it.
        self.activated = true;
        *self = again;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.is_activated() && self.is_in_place() {
            // A remaining socket is reclaimed at the next start.
            drop(fs::remove_file(&self.settings.path));
        }
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Checks the directory of the socket. Its owner must be one of `owners`.
fn check_directory(socket: &Path, owners: &[u32]) -> Result<(), SocketError> {
    let path = socket.parent().unwrap_or(Path::new("/"));
    let failed = |source| SocketError::Directory {
        path: path.to_owned(),
        source,
    };
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let rule = if !found.is_dir() {
        "it must be a directory and not a symbolic link"
    } else if found.mode() & 0o022 != 0 {
        "group and others must not be able to write"
    } else if !owners.contains(&found.uid()) {
        "the provider's own user must own it"
    } else {
        return Ok(());
    };
    Err(SocketError::UnsafeDirectory {
        path: path.to_owned(),
        rule,
        uid: found.uid(),
        mode: found.mode() & 0o7777,
    })
}

/// Removes a dead socket; `false` if the path is absent.
async fn reclaim(path: &Path) -> Result<bool, SocketError> {
    let undecided = |source| SocketError::Undecided {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(unreadable) => return Err(undecided(unreadable)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }

    match time::timeout(DIAL_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Ok(connected)) => {
            // The credentials of the process that called `listen`.
            let pid = connected.peer_cred().ok().and_then(|peer| peer.pid());
            let pid = pid.and_then(|pid| u32::try_from(pid).ok());
            Err(SocketError::InUse {
                path: path.to_owned(),
                listener: pid.filter(|pid| *pid > 0).map(Holder::running),
            })
        }
        Ok(Err(refused)) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            let failed = |source| SocketError::Bind {
                attempt: "remove the dead socket",
                path: path.to_owned(),
                source,
            };
            fs::remove_file(path).map_err(failed)?;
            Ok(true)
        }
        Ok(Err(other)) => Err(undecided(other)),
        Err(_elapsed) => Err(undecided(io::ErrorKind::TimedOut.into())),
    }
}

/// One client connection with its authority rewriter.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    repair: AuthorityRewriter,
    client: Client,
    /// Bytes of the HTTP/2 preface still to come.
    preface_left: usize,
    /// Limit for the client's end, once this side is closed.
    closing: Option<Pin<Box<Sleep>>>,
}

/// Time for a client to read the last frames and to close.
const LAST_READ: Duration = Duration::from_secs(3);

impl Connection {
    /// For a connection before its first read.
    #[must_use]
    pub fn new(stream: UnixStream, client: Client) -> Self {
        Self {
            stream,
            repair: AuthorityRewriter::new(),
            client,
            preface_left: PREFACE_BYTES,
            closing: None,
        }
    }

    /// Discards input until the client closes.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut discarded = [0; 256];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        match &mut self.closing {
            Some(limit) => limit.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(bytes) = buffer.filled_mut().get_mut(before..) {
            self.repair.pass(bytes);
            let count = bytes.len();
            if self.preface_left > 0 && count > 0 {
                self.preface_left = self.preface_left.saturating_sub(count);
                if self.preface_left == 0 {
                    self.client.sent_preface();
                }
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// h2 then copies a message below 1 KiB into the buffer of its frames, and sends the response of an
    /// Encrypt in one write instead of two.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// A client with a call under way would fail at a closed socket, before it reads the `GOAWAY` by which
    /// it sends the call elsewhere. So its end comes first.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.closing = Some(Box::pin(sleep(LAST_READ)));
        }
        self.poll_end(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use kms_node::node_files::socket_mark;

    use super::*;

    fn settings(directory: &Path) -> SocketSettings {
        let gid = rustix::process::getegid().as_raw();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o750)).unwrap();
        SocketSettings {
            path: directory.join("kms.sock"),
            mode: 0o660,
            gid,
        }
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        // A standard listener leaves its file behind, like a killed process.
        drop(std::os::unix::net::UnixListener::bind(&settings.path).unwrap());
        let socket = Socket::bind(&settings).await.unwrap();
        assert!(socket.reclaimed());
        let mode = fs::symlink_metadata(&settings.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o660);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&settings.path, &link).unwrap();
        let own = socket_mark(&settings.path);
        assert!(own.is_some());
        assert_eq!(socket_mark(&link), own);
        assert_eq!(socket_mark(directory.path()), None);
        let second = Socket::bind(&settings).await;
        assert!(
            matches!(&second, Err(SocketError::InUse { listener: Some(listener), .. })
                if listener.pid == std::process::id()),
            "{second:?}"
        );
        drop(socket);
        assert!(!settings.path.exists(), "a clean stop removes the socket");
        let next = Socket::bind(&settings).await.unwrap();
        assert_ne!(socket_mark(&settings.path), own);
        drop(next);
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_replaced_is_bound_again_and_a_live_one_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let mut socket = Socket::bind(&settings).await.unwrap();
        assert!(socket.is_in_place());
        fs::remove_file(&settings.path).unwrap();
        assert!(!socket.is_in_place());
        socket.bind_again().await.unwrap();
        assert!(socket.is_in_place());
        let connected = UnixStream::connect(&settings.path).await.unwrap();
        socket.accept().await.unwrap();
        drop(connected);

        let aside = directory.path().join("aside");
        let other = std::os::unix::net::UnixListener::bind(&aside).unwrap();
        rustix::fs::rename(&aside, &settings.path).unwrap();
        assert!(!socket.is_in_place());
        let refused = socket.bind_again().await;
        assert!(
            matches!(refused, Err(SocketError::InUse { .. })),
            "{refused:?}"
        );
        drop(other);
        socket.bind_again().await.unwrap();
        assert!(socket.is_in_place() && socket.reclaimed());
        drop(socket);
        assert!(!settings.path.exists());
    }

    #[tokio::test]
    async fn a_changed_mode_or_group_of_socket_or_directory_is_drift() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let socket = Socket::bind(&settings).await.unwrap();
        let words = || socket.drift().iter().map(Drift::as_str).collect::<Vec<_>>();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(words(), [""; 0]);
        set(&settings.path, 0o600);
        assert_eq!(words(), ["mode"]);
        set(&settings.path, 0o660);
        for (mode, drift) in [
            (0o700, &["directory"][..]),
            (0o2777, &["unsafe_directory"]),
            (0o2750, &[]),
            (0o755, &[]),
        ] {
            set(directory.path(), mode);
            assert_eq!(words(), drift, "{mode:o}");
        }
        let gid = settings.gid + 1;
        let other = SocketSettings { gid, ..settings };
        let drift = socket_drift(&other.path, other.mode, other.gid);
        let words: Vec<_> = drift.iter().map(Drift::as_str).collect();
        assert_eq!(words, ["group"], "others may enter the directory");
    }

    #[tokio::test]
    async fn a_passed_listener_is_taken_as_configured_and_its_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let listen = |path: &Path| std::os::unix::net::UnixListener::bind(path).unwrap();
        let kept = listen(&settings.path);
        fs::set_permissions(&settings.path, fs::Permissions::from_mode(0o660)).unwrap();
        let passed = || kept.try_clone().unwrap();
        let socket = Socket::activated(passed(), &settings).unwrap();
        assert!(socket.is_activated() && socket.is_in_place());
        assert_eq!(socket.drift(), []);
        let _connected = UnixStream::connect(&settings.path).await.unwrap();
        socket.accept().await.unwrap();
        drop(socket);
        assert!(settings.path.exists());
        // The socket unit was restarted alone: its new socket is not the one that was passed.
        let socket = Socket::activated(passed(), &settings).unwrap();
        let aside = directory.path().join("aside");
        let _new = listen(&aside);
        rustix::fs::rename(&aside, &settings.path).unwrap();
        assert!(!socket.is_in_place());
        rustix::fs::rename(&settings.path, &aside).unwrap();
        let kept = listen(&settings.path);
        fs::set_permissions(&settings.path, fs::Permissions::from_mode(0o660)).unwrap();
        let passed = || kept.try_clone().unwrap();

        let refused = |listener, settings: &SocketSettings| {
            let refused = Socket::activated(listener, settings).unwrap_err();
            assert!(matches!(refused, SocketError::Activated { .. }));
            refused.to_string()
        };
        let other = listen(&directory.path().join("other"));
        assert!(refused(other, &settings).contains("ListenStream= is"));
        let wider = SocketSettings {
            mode: 0o600,
            ..settings.clone()
        };
        assert!(refused(passed(), &wider).contains("SocketMode= must be 0600, found 0660"));
        let gid = settings.gid + 1;
        let other_group = SocketSettings { gid, ..settings };
        assert!(refused(passed(), &other_group).contains("SocketGroup= must be"));
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        fs::File::create(&settings.path).unwrap();
        let refused = Socket::bind(&settings).await;
        assert!(
            matches!(refused, Err(SocketError::NotASocket { .. })),
            "{refused:?}"
        );
        fs::remove_file(&settings.path).unwrap();
        let target = directory.path().join("target");
        drop(std::os::unix::net::UnixListener::bind(&target).unwrap());
        std::os::unix::fs::symlink(&target, &settings.path).unwrap();
        let refused = Socket::bind(&settings).await;
        assert!(
            matches!(refused, Err(SocketError::NotASocket { .. })),
            "{refused:?}"
        );
        assert!(target.exists());
    }

    #[tokio::test]
    async fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let refused = Socket::bind(&settings).await;
        assert!(
            matches!(refused, Err(SocketError::UnsafeDirectory { .. })),
            "{refused:?}"
        );
    }
}
