//! Durations of encryption and decryption, directly with OpenBao or through the socket of a running
//! provider. Every round trip is checked for equal bytes.

use std::{
    io,
    panic::resume_unwind,
    time::{Duration, SystemTime},
};

use kms_domain::{
    aad::AssociatedData,
    transit::{KeyProfile, ProfileRefused},
};
use kms_node::{
    auth::CallFailure,
    config::Config,
    connection::{self, Connection, ConnectionError},
    exit::Exit,
    probe::{KmsClient, ProbeError},
    report::{
        counted,
        outcome::{Outcome, PASSED},
        table::Table,
    },
    transit_key::round_trip::{self, DeepError, Took},
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{runtime, task::JoinSet, time::Instant};

/// Size of the benchmark.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Total number of round trips, at least one.
    pub iterations: u32,
    /// Concurrent round trips, at least one.
    pub concurrency: u32,
}

/// Target of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Through {
    /// OpenBao itself, after a separate login.
    OpenBao,
    /// The running provider, through its socket.
    Socket,
}

/// The members of `benchmark`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Benchmark {
    through: Through,
    iterations: u32,
    concurrency: u32,
    elapsed_ms: Milliseconds,
    encrypt_ms: Figures,
    decrypt_ms: Figures,
}

/// Why the benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// The connection to OpenBao failed.
    #[error("{NOTHING}")]
    Connection(#[from] ConnectionError),
    #[error("{NOTHING}: the metadata of the Transit key cannot be read")]
    Metadata(#[source] CallFailure),
    /// The key is unacceptable.
    #[error("{NOTHING}: the Transit key must not be used")]
    Profile(#[from] ProfileRefused),
    /// The socket is unusable.
    #[error("{NOTHING}")]
    Socket(#[source] ProbeError),
    #[error("a round trip through OpenBao failed after {done} that succeeded")]
    OpenBaoTrip {
        /// Successful round trips before the failure.
        done: u32,
        #[source]
        source: DeepError,
    },
    #[error("a round trip through the provider's socket failed after {done} that succeeded")]
    SocketTrip {
        /// Successful round trips before the failure.
        done: u32,
        #[source]
        source: ProbeError,
    },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

const NOTHING: &str = "nothing was measured";

/// Logs in, reads the key's metadata, then measures Transit with the newest version of the key. The
/// client sends at most 16 concurrent requests; with a higher concurrency, the waiting time in this
/// process is included. `progress` receives the number of finished round trips.
///
/// # Errors
/// The first failed step.
pub fn through_openbao(
    config: &Config,
    load: Load,
    progress: impl FnMut(u32),
) -> Result<Benchmark, BenchmarkError> {
    connection::ask(config, async |openbao| {
        let Connection {
            session, transit, ..
        } = openbao;
        let metadata = openbao.key_metadata().await;
        let metadata = metadata.map_err(BenchmarkError::Metadata)?;
        let version = KeyProfile::check(&metadata, &config.key.key_name)?.latest();
        let trip = || {
            let (session, transit) = (session.clone(), transit.clone());
            async move {
                let aad = AssociatedData::benchmark();
                round_trip::round_trip(&session, &transit, version, &aad).await
            }
        };
        measure(Through::OpenBao, load, trip, progress)
            .await
            .map_err(|(done, source)| BenchmarkError::OpenBaoTrip { done, source })
    })?
}

/// Measures Encrypt and Decrypt of the provider on this node. Each round trip also calls Status,
/// without measuring it.
///
/// # Errors
/// The first failed step.
pub fn through_socket(
    config: &Config,
    load: Load,
    progress: impl FnMut(u32),
) -> Result<Benchmark, BenchmarkError> {
    // The provider limits each of the two calls; this limit must be longer than both.
    let limit = 2 * config.openbao.timeout + Duration::from_secs(1);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchmarkError::Runtime)?;
    runtime.block_on(async {
        let client =
            KmsClient::new(&config.server.socket_path, limit).map_err(BenchmarkError::Socket)?;
        let trip = || {
            let mut client = client.clone();
            async move {
                let trip = client.round_trip(None).await?;
                Ok(Took {
                    encrypt: trip.encrypt,
                    decrypt: trip.decrypt,
                })
            }
        };
        measure(Through::Socket, load, trip, progress)
            .await
            .map_err(|(done, source)| BenchmarkError::SocketTrip { done, source })
    })
}

/// Keeps `concurrency` round trips running until all are done or one fails. An error includes the
/// number of successful round trips.
async fn measure<F, E>(
    through: Through,
    load: Load,
    trip: impl Fn() -> F,
    mut progress: impl FnMut(u32),
) -> Result<Benchmark, (u32, E)>
where
    F: Future<Output = Result<Took, E>> + Send + 'static,
    E: Send + 'static,
{
    let mut trips = JoinSet::new();
    let (mut started, mut done) = (0, 0);
    let (mut encrypt, mut decrypt) = (Vec::new(), Vec::new());
    let start = Instant::now();

    loop {
        while started < load.iterations && started - done < load.concurrency {
            trips.spawn(trip());
            started += 1;
        }
        let Some(finished) = trips.join_next().await else {
            break;
        };

        // Round trips are never canceled here, so a join error is a panic.
        let took = finished.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
        let took = took.map_err(|error| (done, error))?;
        encrypt.push(took.encrypt);
        decrypt.push(took.decrypt);
        done += 1;
        progress(done);
    }

    Ok(Benchmark {
        through,
        iterations: load.iterations,
        concurrency: load.concurrency,
        elapsed_ms: Milliseconds(start.elapsed()),
        encrypt_ms: Figures::of(encrypt),
        decrypt_ms: Figures::of(decrypt),
    })
}

/// Percentiles by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
struct Figures {
    min: Milliseconds,
    p50: Milliseconds,
    p90: Milliseconds,
    p99: Milliseconds,
    max: Milliseconds,
}

impl Figures {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at_percent = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            Milliseconds(samples.get(rank - 1).copied().unwrap_or_default())
        };
        Self {
            min: at_percent(0),
            p50: at_percent(50),
            p90: at_percent(90),
            p99: at_percent(99),
            max: at_percent(100),
        }
    }
}

/// Milliseconds, rounded to three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "f64")]
struct Milliseconds(Duration);

impl Milliseconds {
    fn rounded(self) -> f64 {
        (self.0.as_secs_f64() * 1e6).round() / 1e3
    }
}

impl From<Milliseconds> for f64 {
    fn from(milliseconds: Milliseconds) -> Self {
        milliseconds.rounded()
    }
}

impl Benchmark {
    #[must_use]
    pub fn outcome(self, now: SystemTime) -> Outcome<Self> {
        let (asked, through) = match self.through {
            Through::OpenBao => ("transit", "OpenBao"),
            Through::Socket => ("kms", "the socket"),
        };
        let mut durations = Table::new(
            "duration in ms",
            ["call", "min", "p50", "p90", "p99", "max"],
        );
        for (call, figures) in [("encrypt", self.encrypt_ms), ("decrypt", self.decrypt_ms)] {
            let Figures {
                min,
                p50,
                p90,
                p99,
                max,
            } = figures;
            let mut cells = vec![format!("{asked} {call}")];
            cells.extend([min, p50, p90, p99, max].map(|it| format!("{:.3}", it.rounded())));
            durations.row(cells);
        }
        let headline = format!(
            "{} through {through} succeeded, {} at a time, in {:.3} ms",
            counted(self.iterations, "round trip"),
            self.concurrency,
            self.elapsed_ms.rounded()
        );
        let mut outcome = Outcome::new("benchmark", now, self);
        outcome.conclude(PASSED, Exit::Success, headline);
        outcome.add_table(durations);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::*;

    fn took(milliseconds: u64) -> Took {
        Took {
            encrypt: Duration::from_millis(milliseconds),
            decrypt: Duration::from_micros(milliseconds),
        }
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let of = |samples: &[u64]| {
            let figures = Figures::of(samples.iter().copied().map(Duration::from_millis).collect());
            [
                figures.min,
                figures.p50,
                figures.p90,
                figures.p99,
                figures.max,
            ]
            .map(|figure| figure.0.as_millis())
        };
        assert_eq!(of(&[7]), [7; 5]);
        assert_eq!(of(&[5, 4, 3, 2, 1]), [1, 3, 5, 5, 5]);
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), [1, 50, 90, 99, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_under_way_as_asked_for_and_never_more() {
        let load = Load {
            iterations: 10,
            concurrency: 3,
        };
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let trip = || {
            let (now, most) = (now.clone(), most.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(took(1))
            }
        };
        let mut seen = Vec::new();
        let measured = measure(Through::Socket, load, trip, |done| seen.push(done)).await;
        assert_eq!(most.load(Ordering::SeqCst), 3);
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
        // Four rounds of at most three.
        assert_eq!(measured.unwrap().elapsed_ms.rounded(), 4.0);
    }

    #[tokio::test]
    async fn a_failure_tells_how_many_succeeded_before_it() {
        let load = Load {
            iterations: 5,
            concurrency: 1,
        };
        let count = Arc::new(AtomicU32::new(0));
        let trip = || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                if number < 2 {
                    Ok(took(1))
                } else {
                    Err("broken")
                }
            }
        };
        let failed = measure(Through::OpenBao, load, trip, |_| {}).await;
        assert_eq!(failed.unwrap_err(), (2, "broken"));
    }

    #[test]
    fn durations_are_milliseconds_with_three_decimals() {
        let figure = Milliseconds(Duration::from_nanos(1_234_567));
        assert_eq!(serde_json::to_string(&figure).unwrap(), "1.235");
    }
}
