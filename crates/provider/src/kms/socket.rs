//! The Unix socket that kube-apiserver connects to. Implements `docs/operate/files.md` section
//! "Socket".
//!
//! Only a dead socket of our own is ever removed: one in our directory that refuses connections.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use kms_domain::digest::TextHash;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::authority::Repair;

/// How long an existing socket gets to show whether somebody listens on it.
const DIAL_TIMEOUT: Duration = Duration::from_millis(250);
/// Connections served at once. An API server uses one per KMS entry.
const MAX_CONNECTIONS: usize = 256;
/// Pause when the kernel has no descriptor for us, instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the socket is and who may use it.
#[derive(Debug, Clone)]
pub struct SocketSettings {
    /// Absolute path.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The group that may connect.
    pub gid: u32,
}

/// Why the socket cannot be bound. Nothing has been removed or changed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is missing or cannot be looked at.
    #[error(
        "cannot use the socket directory {}: create it with owner = the provider's user and mode 2750",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory would let others replace the socket.
    #[error(
        "the socket directory {} is unsafe: {rule} (found owner {uid}, mode {mode:04o}); fix it with chown and chmod 2750",
        path.display()
    )]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// The rule that it breaks.
        rule: &'static str,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else lies at the path.
    #[error("{} exists and is not a socket: it is left alone; move it away or change server.socketPath", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another provider answers there.
    #[error("another process serves {}: stop it first; two providers on one socket would take turns", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Whether somebody listens could not be found out.
    #[error("cannot tell whether {} is in use, so it is left alone; see who owns it with `ss -xlp`", path.display())]
    Undecided {
        /// The path.
        path: PathBuf,
        /// What dialling it gave.
        #[source]
        source: io::Error,
    },
    /// Binding, or setting mode and group, failed.
    #[error("cannot {attempt} {}", path.display())]
    Bind {
        /// What was tried.
        attempt: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Names one socket among those of all machines, whatever path leads to it; `None` where there is
/// none. Device and inode alone recur on a machine of the same kind, so its second of birth, to the
/// nanosecond, is part of the name.
#[must_use]
pub fn mark(path: &Path) -> Option<TextHash> {
    let found = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
    let name = format!("{} {} {seconds} {nanoseconds}", found.dev(), found.ino());
    let socket = found.file_type().is_socket();
    socket.then(|| TextHash::of(&format!("socket {name}")))
}

/// A bound socket; removed from the file system when dropped, if it is still ours.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    reclaimed: bool,
}

impl Socket {
    /// Binds the socket, after removing a dead one at the same path.
    ///
    /// The process must run with a umask of 077, so that nobody can connect between binding and
    /// setting the mode.
    ///
    /// # Errors
    /// See [`SocketError`]; whatever lies at the path is kept, except a dead socket.
    pub async fn bind(settings: &SocketSettings) -> Result<Self, SocketError> {
        let path = settings.path.clone();
        check_directory(path.parent().unwrap_or(Path::new("/")))?;
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
        let inode = fs::symlink_metadata(&path)
            .map_err(failed("look at"))?
            .ino();
        let socket = Self {
            listener,
            path: path.clone(),
            inode,
            reclaimed,
        };
        chown(&path, None, Some(settings.gid)).map_err(failed("set the group of"))?;
        let mode = fs::Permissions::from_mode(settings.mode);
        fs::set_permissions(&path, mode).map_err(failed("set the mode of"))?;
        Ok(socket)
    }

    /// Whether a dead socket was removed to bind this one.
    #[must_use]
    pub fn reclaimed(&self) -> bool {
        self.reclaimed
    }

    /// Connections as they come, until the stream is dropped; the socket is removed with it.
    #[must_use]
    pub fn incoming(self) -> ReceiverStream<io::Result<Connection>> {
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = self.accept(&send) => {}
                () = send.closed() => {}
            }
        });
        ReceiverStream::new(receive)
    }

    async fn accept(&self, connections: &mpsc::Sender<io::Result<Connection>>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if connections
                        .send(Ok(Connection {
                            stream,
                            repair: Repair::new(),
                            _slot: slot,
                        }))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Err(_out_of_descriptors) => time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours {
            // A socket left behind is reclaimed at the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn check_directory(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Directory {
        path: path.to_owned(),
        source,
    };
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let rule = if !found.is_dir() {
        "it must be a directory and not a symbolic link"
    } else if found.mode() & 0o022 != 0 {
        "group and others must not be able to write"
    } else if found.uid() != rustix::process::geteuid().as_raw() {
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

/// Removes a dead socket; `false` when nothing is there.
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
        Ok(Ok(_connected)) => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
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

/// One client connection, holding its slot.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    repair: Repair,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
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
        // A standard listener leaves its file behind, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&settings.path).unwrap());
        let socket = Socket::bind(&settings).await.unwrap();
        assert!(socket.reclaimed());
        let mode = fs::symlink_metadata(&settings.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o660);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&settings.path, &link).unwrap();
        let own = mark(&settings.path);
        assert!(own.is_some());
        assert_eq!(mark(&link), own);
        assert_eq!(mark(directory.path()), None);
        let second = Socket::bind(&settings).await;
        assert!(
            matches!(second, Err(SocketError::InUse { .. })),
            "{second:?}"
        );
        drop(socket);
        assert!(!settings.path.exists(), "a clean stop removes the socket");
        let next = Socket::bind(&settings).await.unwrap();
        assert_ne!(mark(&settings.path), own);
        drop(next);
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
