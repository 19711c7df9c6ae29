//! How long it takes to encrypt and decrypt, directly with OpenBao or through the socket of a
//! running provider. Every round trip is checked to give back the bytes that went in.

use std::{
    io::{self, Write},
    panic::resume_unwind,
    time::Duration,
};

use kms_domain::{
    aad::AssociatedData,
    transit::{KeyProfile, ProfileRefused},
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{runtime, task::JoinSet, time::Instant};

use crate::{
    auth::CallFailure,
    config::Config,
    connection::{self, Connection, ConnectionError},
    probe::{KmsClient, ProbeError},
    report::Render,
    watcher::deep::{self, DeepError, Took},
};

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Round trips in all, at least one.
    pub iterations: u32,
    /// Round trips at the same time, at least one.
    pub concurrency: u32,
}

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Through {
    /// OpenBao itself, after a login of our own.
    OpenBao,
    /// The running provider, as kube-apiserver asks it.
    Socket,
}

/// The result.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Benchmark {
    schema_version: &'static str,
    command: &'static str,
    through: Through,
    iterations: u32,
    concurrency: u32,
    elapsed_ms: Milliseconds,
    encrypt_ms: Figures,
    decrypt_ms: Figures,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// There is nothing to ask with.
    #[error("{NOTHING}")]
    Connection(#[from] ConnectionError),
    /// The key's metadata could not be read.
    #[error("{NOTHING}: the metadata of the Transit key cannot be read")]
    Metadata(#[source] CallFailure),
    /// The key must not be used.
    #[error("{NOTHING}: the Transit key must not be used")]
    Profile(#[from] ProfileRefused),
    /// The socket cannot be asked.
    #[error("{NOTHING}")]
    Socket(#[source] ProbeError),
    /// OpenBao failed.
    #[error("a round trip through OpenBao failed after {done} that succeeded")]
    OpenBaoTrip {
        /// Successes before.
        done: u32,
        /// Why.
        #[source]
        source: DeepError,
    },
    /// The provider failed.
    #[error("a round trip through the provider's socket failed after {done} that succeeded")]
    SocketTrip {
        /// Successes before.
        done: u32,
        /// Why.
        #[source]
        source: ProbeError,
    },
    /// The system has no resources to run it.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

const NOTHING: &str = "nothing was measured";

/// Logs in, reads the key's metadata, then measures Transit with the newest version of the key.
/// The client sends at most 16 requests at the same time: with more concurrency they wait in this
/// process, and that counts. `progress` gets the number of finished round trips.
///
/// # Errors
/// The first step that fails.
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
                deep::round_trip(&session, &transit, version, &aad).await
            }
        };
        measure(Through::OpenBao, load, trip, progress)
            .await
            .map_err(|(done, source)| BenchmarkError::OpenBaoTrip { done, source })
    })?
}

/// Measures Encrypt and Decrypt of the provider that runs on this node; each round trip also asks
/// for its Status, which is not counted.
///
/// # Errors
/// The first step that fails.
pub fn through_socket(
    config: &Config,
    load: Load,
    progress: impl FnMut(u32),
) -> Result<Benchmark, BenchmarkError> {
    // The provider answers each of the two calls within its own deadline, and this one should not
    // be the first to end.
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

/// Keeps `concurrency` round trips under way until all are done or one fails; then also the number
/// of those that succeeded.
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
        // Nothing here cancels a round trip, so it can only have panicked.
        let took = finished.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
        let took = took.map_err(|error| (done, error))?;
        encrypt.push(took.encrypt);
        decrypt.push(took.decrypt);
        done += 1;
        progress(done);
    }
    Ok(Benchmark {
        schema_version: "v1",
        command: "benchmark",
        through,
        iterations: load.iterations,
        concurrency: load.concurrency,
        elapsed_ms: Milliseconds(start.elapsed()),
        encrypt_ms: Figures::of(encrypt),
        decrypt_ms: Figures::of(decrypt),
    })
}

impl BenchmarkError {
    /// What OpenBao failed in, if that is the cause.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::Metadata(failure) => Some(failure),
            Self::OpenBaoTrip { source, .. } => source.call(),
            Self::Connection(_)
            | Self::Profile(_)
            | Self::Socket(_)
            | Self::SocketTrip { .. }
            | Self::Runtime(_) => None,
        }
    }
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

/// Shown with three decimals, and so a number in JSON.
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

impl Render for Benchmark {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (asked, through) = match self.through {
            Through::OpenBao => ("transit", "openbao"),
            Through::Socket => ("kms", "socket"),
        };
        writeln!(out, "benchmark\niterations: {}", self.iterations)?;
        writeln!(out, "concurrency: {}", self.concurrency)?;
        writeln!(out, "through: {through}")?;
        writeln!(out, "elapsed_ms: {:.3}", self.elapsed_ms.rounded())?;
        for (call, figures) in [("encrypt", self.encrypt_ms), ("decrypt", self.decrypt_ms)] {
            for (name, figure) in [
                ("min", figures.min),
                ("p50", figures.p50),
                ("p90", figures.p90),
                ("p99", figures.p99),
                ("max", figures.max),
            ] {
                writeln!(out, "{asked}_{call}_ms_{name}: {:.3}", figure.rounded())?;
            }
        }
        Ok(())
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
