//! Log lines: one event per line on standard error, as JSON or as text. Implements
//! `docs/observability.md` section "Logs".
//!
//! The log contains events of this crate only, so its vocabulary is bounded. Secrets are excluded,
//! because events have no field for them.
//!
//! A line is queued in memory and written by a dedicated thread. A stalled reader or a hanging disk
//! therefore delays the log only. A full queue drops lines and counts them.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, ErrorKind, Write},
    mem,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::{LogFormat, LogLevel},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer as _,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Limit for queued bytes; the writer may hold the same amount.
const MAX_QUEUED_BYTES: usize = 512 * 1024;
/// Interval between attempts to write to a non-blocking standard error.
const RETRY: Duration = Duration::from_millis(50);

/// Time limit for the last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// The crates with events of the program; those of libraries are left out.
const OURS: [&str; 3] = ["kms_daemon", "kms_node", "provider"];

static QUEUE: Queue = Queue::new();
/// Whether lines begin with their priority, as the journal reads it.
static PRIORITIES: AtomicBool = AtomicBool::new(false);

/// Queues lines from now on, for the whole process; [`write_lines`] starts the writer. A second
/// call has no effect.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Enqueue)
        .event_format(Lines { format })
        .with_filter(
            OURS.into_iter()
                .map(|ours| (ours, level))
                .collect::<Targets>(),
        );
    // The only failure is a subscriber set earlier.
    drop(tracing_subscriber::registry().with(lines).try_init());
}

/// Starts the thread that writes queued lines to standard error. The thread inherits the
/// restrictions of the caller, so `serve` calls this function after hardening.
///
/// # Errors
/// The system has no more threads or file descriptors.
pub fn write_lines() -> io::Result<()> {
    // A separate handle: a hanging write must not hold the lock of `io::stderr`.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let writer = thread::Builder::new().name("log".to_owned());
    writer
        .spawn(move || write_forever(&QUEUE, stderr))
        .map(drop)
}

/// Gives each line its priority for the journal of systemd, such as `<4>`.
pub fn prefix_priorities(journal: bool) {
    PRIORITIES.store(journal, Ordering::Relaxed);
}

/// The text of an error, for the journal with the priority of an error on each line.
#[must_use]
pub fn of_errors(text: &[u8], journal: bool) -> Vec<u8> {
    if !journal {
        return text.to_vec();
    }
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| [b"<3>", line].concat()).collect()
}

/// Queues plain text, such as the message of a failed command.
pub fn write_text(text: &[u8]) {
    QUEUE.push(text);
}

/// Waits until all queued lines are written, for one second at most. Call it before the process
/// ends.
pub fn flush() {
    QUEUE.flush(FLUSH);
}

/// Lines dropped since the start of the process.
#[must_use]
pub fn dropped_lines() -> u64 {
    QUEUE.lock().dropped
}

/// Writer of `tracing_subscriber` into the queue.
struct Enqueue;

impl Write for Enqueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines waiting for the writer. The lock is released during writes.
struct Queue {
    pending: Mutex<Pending>,
    filled: Condvar,
    written: Condvar,
}

struct Pending {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Lines dropped since the start.
    dropped: u64,
    /// Dropped lines already reported in the log.
    told: u64,
    /// Whether the writer still writes the lines it has taken.
    writing: bool,
}

impl Queue {
    const fn new() -> Self {
        Self {
            pending: Mutex::new(Pending {
                lines: VecDeque::new(),
                bytes: 0,
                dropped: 0,
                told: 0,
                writing: false,
            }),
            filled: Condvar::new(),
            written: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut pending = self.lock();
        if pending.bytes + line.len() > MAX_QUEUED_BYTES {
            pending.dropped += 1;
            return;
        }
        pending.bytes += line.len();
        pending.lines.push_back(line.into());
        drop(pending);
        self.filled.notify_one();
    }

    /// Waits for lines. Also returns the number of lines dropped since the last call.
    fn take(&self) -> (VecDeque<Box<[u8]>>, u64) {
        let mut pending = self.lock();
        pending.writing = false;
        while pending.lines.is_empty() {
            self.written.notify_all();
            pending = self
                .filled
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        pending.writing = true;
        pending.bytes = 0;
        let untold = pending.dropped - pending.told;
        pending.told = pending.dropped;
        (mem::take(&mut pending.lines), untold)
    }

    fn count_unwritten(&self) {
        let mut pending = self.lock();
        pending.dropped += 1;
    }

    fn flush(&self, limit: Duration) {
        let unwritten = |pending: &mut Pending| pending.writing || !pending.lines.is_empty();
        let waited = self
            .written
            .wait_timeout_while(self.lock(), limit, unwritten);
        drop(waited);
    }
}

fn write_forever(queue: &Queue, mut stderr: impl Write) {
    loop {
        let (lines, dropped) = queue.take();
        if dropped > 0 {
            // The queue was just emptied, so it has room for this line.
            tracing::warn!(lines = dropped, "log.dropped");
        }
        for line in lines {
            if write_whole(&mut stderr, &line).is_err() {
                queue.count_unwritten();
            }
        }
    }
}

/// Like `write_all`, but also retries on a standard error made non-blocking by another process.
fn write_whole(stderr: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match stderr.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Lines {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ts = Timestamp::try_from(SystemClock.now()).map_err(|_| fmt::Error)?;
        let (level, priority) = match *event.metadata().level() {
            Level::TRACE | Level::DEBUG => ("debug", 7),
            Level::INFO => ("info", 6),
            Level::WARN => ("warn", 4),
            Level::ERROR => ("error", 3),
        };
        if PRIORITIES.load(Ordering::Relaxed) {
            write!(line, "<{priority}>")?;
        }

        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.name_operation();
        match self.format {
            LogFormat::Json => {
                write!(line, r#"{{"ts":"{ts:.6}","level":"{level}""#)?;
                for (name, value) in &fields.0 {
                    write!(line, r#","{name}":{value}"#)?;
                }
                writeln!(line, "}}")
            }
            LogFormat::Text => {
                write!(line, "{ts:.6} {level:5}")?;
                for (name, value) in &fields.0 {
                    match (*name, value.as_str()) {
                        ("message", Some(message)) => write!(line, " {message}")?,
                        _ => write!(line, " {name}={value}")?,
                    }
                }
                writeln!(line)
            }
        }
    }
}

/// The fields of one event, the message first, as JSON values for escaping in both formats.
#[derive(Default)]
struct Fields(Vec<(&'static str, serde_json::Value)>);

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        let at = if field.name() == "message" {
            0
        } else {
            self.0.len()
        };
        self.0.insert(at, (field.name(), value));
    }
}

impl Fields {
    /// The operation of an event without one is the event itself.
    fn name_operation(&mut self) {
        let message = self.0.first().filter(|(name, _)| *name == "message");
        if let Some((_, message)) = message
            && self.0.iter().all(|(name, _)| *name != "operation")
        {
            self.0.push(("operation", message.clone()));
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// Blocks in each write until it receives a message.
    struct Stalled(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stalled {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| ErrorKind::BrokenPipe)?;
            self.1.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_for_the_journal_has_its_priority_on_each_line() {
        let text = b"error: one\n  next: two\n";
        assert_eq!(of_errors(text, false), text);
        assert_eq!(of_errors(text, true), b"<3>error: one\n<3>  next: two\n");
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_but_neither_time_nor_memory() {
        static QUEUE: Queue = Queue::new();
        let (go_on, stalled) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let stderr = Stalled(stalled, Arc::clone(&written));
        let line = [b'x'; 1024];
        QUEUE.push(b"first");
        thread::spawn(|| write_forever(&QUEUE, stderr));
        while QUEUE.lock().bytes > 0 {
            thread::yield_now();
        }
        for _ in 0..600 {
            QUEUE.push(&line);
        }
        assert_eq!(QUEUE.lock().dropped, 600 - 512);
        QUEUE.flush(Duration::from_millis(10));
        assert!(written.lock().unwrap().is_empty());

        (0..513).for_each(|_| go_on.send(()).unwrap());
        QUEUE.flush(Duration::from_secs(60));
        assert_eq!(written.lock().unwrap().len(), 5 + 512 * 1024);
        assert_eq!(QUEUE.lock().told, 600 - 512);

        drop(go_on);
        QUEUE.push(b"to nobody");
        QUEUE.flush(Duration::from_secs(60));
        assert_eq!(QUEUE.lock().dropped, 600 - 512 + 1);
    }
}
