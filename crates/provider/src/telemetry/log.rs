//! Log lines: one event a line on standard error, as JSON or as text. Implements
//! `docs/observability.md` section "Logs".
//!
//! Only events of this crate are written, so the vocabulary is bounded; secrets never get here,
//! since no event has a field for one.

use std::{fmt, io};

use jiff::Timestamp;
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

use crate::{
    clock::{Clock as _, SystemClock},
    config::{LogFormat, LogLevel},
};

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .event_format(Lines { format })
        .with_filter(Targets::new().with_target(env!("CARGO_CRATE_NAME"), level));
    // The only failure is a subscriber that is set already.
    drop(tracing_subscriber::registry().with(lines).try_init());
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
        let level = match *event.metadata().level() {
            Level::TRACE | Level::DEBUG => "debug",
            Level::INFO => "info",
            Level::WARN => "warn",
            Level::ERROR => "error",
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
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

/// The fields of one event, the message first, as JSON values so that both formats escape them.
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
