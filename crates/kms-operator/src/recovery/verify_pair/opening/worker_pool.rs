//! Threads for decrypting objects.

use std::{
    num::NonZero,
    ops::Range,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread::{self, Scope, ScopedJoinHandle},
};

use etcd_snapshot::open::{DekSource, OpenBuffers};

use super::{Opened, Sealed};
use crate::recovery::inventory::{GroupIndex, Wanted};

/// Distributes objects to threads and merges the outcomes. After a drop, the threads finish their
/// batches and exit.
pub(super) struct WorkerPool<'scope, 'a> {
    wanted: &'a Wanted,
    batch: Batch<'a>,
    full: SyncSender<Batch<'a>>,
    /// Processed batches; their buffers are reused.
    empty: Receiver<Batch<'a>>,
    threads: Vec<ScopedJoinHandle<'scope, Opened>>,
    /// Outcomes of the calling thread.
    opened: Opened,
    scratch: OpenBuffers,
}

/// Copies of objects, in reusable buffers.
#[derive(Default)]
struct Batch<'a> {
    bytes: Vec<u8>,
    objects: Vec<Entry<'a>>,
}

/// Position of an object in the buffer of its batch.
struct Entry<'a> {
    group: GroupIndex,
    source: &'a DekSource,
    number: u64,
    key: Range<usize>,
    data: Range<usize>,
}

/// Large enough that the handover is cheap compared with decryption. Larger objects are decrypted
/// in place, without a copy.
const BATCH_BYTES: usize = 64 << 10;
/// Further threads would only wait for the reading thread.
const MAX_THREADS: usize = 8;

impl<'scope, 'a> WorkerPool<'scope, 'a> {
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
            // A missing thread only reduces throughput.
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
            scratch: OpenBuffers::default(),
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

    /// Merges the outcomes of all threads.
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
        // Allocates a batch if none was returned.
        let next = self.empty.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        if let Err(TrySendError::Full(mut batch) | TrySendError::Disconnected(mut batch)) =
            self.full.try_send(batch)
        {
            batch.open(&mut self.opened, self.wanted, &mut self.scratch);
        }
    }
}

/// Loop of a worker thread.
fn open_all<'a>(
    to_open: &Mutex<Receiver<Batch<'a>>>,
    empty: &Sender<Batch<'a>>,
    wanted: &Wanted,
) -> Opened {
    let mut opened = Opened::default();
    let mut scratch = OpenBuffers::default();
    loop {
        // A poisoned or closed channel ends the loop.
        let next = to_open.lock().map(|to_open| to_open.recv());
        let Ok(Ok(mut batch)) = next else {
            return opened;
        };
        batch.open(&mut opened, wanted, &mut scratch);
        // Fails if the receiver was dropped; the batch is then unused.
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

    /// Decrypts all objects and clears the batch.
    fn open(&mut self, opened: &mut Opened, wanted: &Wanted, scratch: &mut OpenBuffers) {
        for entry in self.objects.drain(..) {
            let bytes = self.bytes.get(entry.key).zip(self.bytes.get(entry.data));
            // An object outside the buffer counts as untried.
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
