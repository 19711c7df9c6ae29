//! A stop while a thread is within a commit.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::BorrowedFd,
    pin::pin,
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use kms_daemon::watcher::committer::{CommitterError, StateCommitter};
use kms_node::state::{
    MissingCheckpoint,
    disk::{Disk, SystemDisk},
};
use tokio::time::{advance, timeout};

use crate::node::{Node, first};

/// Long enough to do nothing in.
const MOMENT: Duration = Duration::from_millis(20);

/// The disk of the machine, which renames nothing before it is told to.
struct HeldDisk(Receiver<()>);

impl Disk for HeldDisk {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        SystemDisk.write(file, bytes)
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        SystemDisk.sync(file)
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.0.recv().map_err(io::Error::other)?;
        SystemDisk.rename(directory, from, to)
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_nobody_up_and_its_commit_is_taken_up_later() {
    let node = Node::new();
    let (release, held) = mpsc::channel();
    let locked = node.reader().lock().unwrap();
    let disk = Box::new(HeldDisk(held));
    let writer = locked.start_writing_on(disk, MissingCheckpoint::Refuse);
    let mut committer = StateCommitter::new(writer.unwrap());
    let next = first(1);
    let commit = committer.commit(next.clone());
    let (hung, ()) = tokio::join!(commit, advance(Duration::from_secs(6)));
    assert!(matches!(hung, Err(CommitterError::NoAnswer)), "{hung:?}");
    let busy = committer.confirm().await;
    assert!(
        matches!(busy.document, Err(CommitterError::NoAnswer)),
        "{busy:?}"
    );
    let busy = committer.complete().await;
    assert!(matches!(busy, Err(CommitterError::NoAnswer)), "{busy:?}");
    assert_eq!(committer.document(), None, "published before it is durable");

    for _document_and_checkpoint in 0..2 {
        release.send(()).unwrap();
    }
    committer.settled().await;
    assert!(committer.complete().await.unwrap());
    assert_eq!(committer.document(), Some(&next));
    assert!(!committer.complete().await.unwrap());
    let confirmed = committer.confirm().await;
    confirmed.document.unwrap();
    assert!(confirmed.space.unwrap().0.free_bytes > 0);
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_any_more_is_seen_to_its_end() {
    let node = Node::new();
    let (release, held) = mpsc::channel();
    let locked = node.reader().lock().unwrap();
    let disk = Box::new(HeldDisk(held));
    let writer = locked.start_writing_on(disk, MissingCheckpoint::Refuse);
    let mut committer = StateCommitter::new(writer.unwrap());
    let mut settled = pin!(committer.settled());
    let next = first(1);
    let commit = committer.commit(next.clone());
    assert!(timeout(MOMENT, commit).await.is_err(), "not held");

    assert!(timeout(MOMENT, &mut settled).await.is_err(), "not waited");
    for _document_and_checkpoint in 0..2 {
        release.send(()).unwrap();
    }
    settled.await;
    node.assert_holds(&next);
}
