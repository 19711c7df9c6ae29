//! Debug correlation: for one incident and a limited time, log lines include the IDs of calls of
//! kube-apiserver and to OpenBao, to find them in both audit logs. Implements
//! `docs/observability.md` section "Debug correlation".
//!
//! It adds these IDs only; all other log rules stay in force.

use std::time::SystemTime;

use jiff::Timestamp;
use kms_node::{clock::Clock, config::DebugCorrelation};
use tokio::time::Instant;

/// The configured correlation; without it, calls have no IDs in the log.
#[derive(Debug)]
pub struct Correlation(Option<Limited>);

#[derive(Debug)]
struct Limited {
    incident: Incident,
    /// By both clocks, because each may stop or jump.
    ends: (Instant, SystemTime),
}

/// Incident fields of each log line.
#[derive(Debug)]
pub struct Incident {
    /// The configured ID.
    pub id: String,
    /// The end of the correlation, RFC 3339, UTC.
    pub expires_at: String,
}

impl Correlation {
    /// Starts the correlation if it is configured. It ends after the configured time.
    #[must_use]
    pub fn begin(configured: Option<&DebugCorrelation>, clock: &dyn Clock) -> Self {
        Self(configured.and_then(|configured| {
            let ends = clock.now().checked_add(configured.ttl)?;
            let expires_at = Timestamp::try_from(ends).ok()?;
            Some(Limited {
                incident: Incident {
                    id: configured.incident_id.clone(),
                    expires_at: format!("{expires_at:.0}"),
                },
                ends: (Instant::now() + configured.ttl, ends),
            })
        }))
    }

    /// The incident, until the end of the correlation.
    #[must_use]
    pub fn incident(&self, clock: &dyn Clock) -> Option<&Incident> {
        let Limited { incident, ends } = self.0.as_ref()?;
        (Instant::now() < ends.0 && clock.now() < ends.1).then_some(incident)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use super::*;

    struct Stepped(Mutex<SystemTime>);

    impl Clock for Stepped {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }
    }

    const TTL: Duration = Duration::from_secs(60);

    fn begun() -> (Correlation, Stepped) {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let clock = Stepped(Mutex::new(start));
        let configured = DebugCorrelation {
            ttl: TTL,
            incident_id: "INC-1".to_owned(),
        };
        (Correlation::begin(Some(&configured), &clock), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_by_itself_by_whichever_clock_is_first() {
        let (correlation, clock) = begun();
        let incident = correlation.incident(&clock).unwrap();
        assert_eq!(incident.id, "INC-1");
        assert_eq!(incident.expires_at, "2023-11-14T22:14:20Z");
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert!(correlation.incident(&clock).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(correlation.incident(&clock).is_none());

        let (correlation, clock) = begun();
        *clock.0.lock().unwrap() += TTL;
        assert!(correlation.incident(&clock).is_none());
    }

    #[tokio::test]
    async fn without_a_configuration_there_is_none() {
        let (_, clock) = begun();
        let correlation = Correlation::begin(None, &clock);
        assert!(correlation.incident(&clock).is_none());
    }
}
