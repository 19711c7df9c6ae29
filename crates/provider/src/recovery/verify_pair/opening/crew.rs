//! The threads that open objects.

use std::{
    num::NonZero,
    ops::Range,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::{self, Scope, ScopedJoinHandle},
};

use etcd_snapshot::open::{DekSource, Scratch};

use super::{Opened, Sealed};
use crate::recovery::inventory::{GroupIndex, Wanted};

/// Hands objects on and adds up what becomes of them. When it is dropped its threads finish what
/// they have and end.
pub(super) struct Crew<'scope, 'a> {
    wanted: &'a Wanted,
    batch: Batch<'a>,
    full: SyncSender<Batch<'a>>,
    /// Batches that are open, for their room.
    empty: Receiver<Batch<'a>>,
    threads: Vec<ScopedJoinHandle<'scope, Opened>>,
    /// What this thread has opened itself.
    opened: Opened,
    scratch: Scratch,
}

/// Objects that were copied, as they were read into room that is used again.
#[derive(Default)]
struct Batch<'a> {
    bytes: Vec<u8>,
    objects: Vec<Entry<'a>>,
}

/// Where an object is in the bytes of a batch.
struct Entry<'a> {
    group: GroupIndex,
    source: &'a DekSource,
    number: u64,
    key: Range<usize>,
    data: Range<usize>,
}

/// Enough that handing it on costs nothing beside opening it. A larger object is not copied.
const BATCH_BYTES: usize = 64 << 10;
/// More cores than this wait for the one that reads.
const MAX_THREADS: usize = 8;

impl<'scope, 'a> Crew<'scope, 'a> {
    pub(super) fn new<'env>(scope: &'scope Scope<'scope, 'env>, wanted: &'a Wanted) -> Self
    where
        'a: 'scope,
    {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let others = cores.saturating_sub(1).min(MAX_THREADS);
        let (full, to_open) = sync_channel(others);
        let (opened, empty) = channel();
        let to_open = Arc::new(Mutex::new(to_open));
        let threads = (0..others).map_while(|_| {
            let (to_open, opened) = (Arc::clone(&to_open), opened.clone());
            // With fewer threads it takes longer.
            thread::Builder::new()
                .spawn_scoped(scope, move || open_all(&to_open, &opened, wanted))
                .ok()
        });
        Self {
            wanted,
            batch: Batch::default(),
            threads: threads.collect(),
            full,
            empty,
            opened: Opened::default(),
            scratch: Scratch::default(),
        }
    }

    pub(super) fn add(&mut self, sealed: Sealed<'a, '_>) {
        let bytes = sealed.key.len().saturating_add(sealed.data.len());
        if bytes > BATCH_BYTES {
            self.opened.open(sealed, self.wanted, &mut self.scratch);
            return;
        }
        if self.batch.bytes.len().saturating_add(bytes) > BATCH_BYTES {
            self.hand_on();
        }
        self.batch.push(sealed);
    }

    /// All of it.
    pub(super) fn finish(mut self) -> Opened {
        self.hand_on();
        let Self {
            threads,
            full,
            mut opened,
            ..
        } = self;
        drop(full);
        for thread in threads {
            match thread.join() {
                Ok(more) => opened.merge(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        opened
    }

    fn hand_on(&mut self) {
        // A new one while none has come back.
        let next = self.empty.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        if let Err(TrySendError::Full(mut batch) | TrySendError::Disconnected(mut batch)) =
            self.full.try_send(batch)
        {
            batch.open(&mut self.opened, self.wanted, &mut self.scratch);
        }
    }
}

/// What one of the threads does until there is nothing more.
fn open_all<'a>(
    to_open: &Mutex<Receiver<Batch<'a>>>,
    empty: &Sender<Batch<'a>>,
    wanted: &Wanted,
) -> Opened {
    let mut opened = Opened::default();
    let mut scratch = Scratch::default();
    loop {
        // Poisoned or closed: there is nothing more.
        let next = to_open.lock().map(|to_open| to_open.recv());
        let Ok(Ok(mut batch)) = next else {
            return opened;
        };
        batch.open(&mut opened, wanted, &mut scratch);
        // Whoever reads may have ended.
        empty.send(batch).ok();
    }
}

impl<'a> Batch<'a> {
    fn push(&mut self, sealed: Sealed<'a, '_>) {
        let mut copy = |bytes: &[u8]| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(bytes);
            start..self.bytes.len()
        };
        let (key, data) = (copy(sealed.key), copy(sealed.data));
        self.objects.push(Entry {
            group: sealed.group,
            source: sealed.source,
            number: sealed.number,
            key,
            data,
        });
    }

    /// Opens its objects and empties it.
    fn open(&mut self, opened: &mut Opened, wanted: &Wanted, scratch: &mut Scratch) {
        for entry in self.objects.drain(..) {
            let bytes = self.bytes.get(entry.key).zip(self.bytes.get(entry.data));
            // An object without its bytes counts as one that was not tried, like all that are not.
            let Some((key, data)) = bytes else {
                continue;
            };
            let sealed = Sealed {
                group: entry.group,
                source: entry.source,
                number: entry.number,
                key,
                data,
            };
            opened.open(sealed, wanted, scratch);
        }
        self.bytes.clear();
    }
}
