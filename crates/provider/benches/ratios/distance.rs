//! Decrypts with OpenBao some milliseconds away, through the provider and directly.

use std::{sync::mpsc, thread, time::Duration};

use openbao_client::endpoint::{Address, Endpoint};
use testkit::relay::{Line, Relay};
use tokio::{runtime, sync::oneshot};

use crate::{
    Progress,
    figures::Calls,
    load::{self, Block, Sample},
    report::{Report, Row},
    stage::Stage,
};

/// Number of rounds, and the block of each.
pub(crate) struct Extent {
    rounds: usize,
    block: Block,
}

impl Extent {
    pub(crate) const QUICK: Self = Self {
        rounds: 2,
        block: Block::new(1_000, Duration::from_secs(1)),
    };
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        block: Block::new(5_000, Duration::from_secs(2)),
    };
}

/// Round trips in milliseconds. The timer of the proxy adds up to 2 ms.
const ROUND_TRIPS: [u64; 4] = [0, 1, 5, 20];
/// Calls in flight.
const CALLERS: [usize; 3] = [1, 8, 64];

/// Starts a provider of its own for each distance.
pub(crate) async fn measure(
    stage: &Stage,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    for round_trip in ROUND_TRIPS {
        let proxy = Proxy::start(stage.server.endpoint(), Duration::from_millis(round_trip));
        let provider = stage.provider_at(&proxy.address).await;
        let calls = Calls::prepare(stage, &provider, proxy.endpoint.clone()).await;
        for in_flight in CALLERS {
            let sides = calls.decrypt.sides(in_flight, extent.block);
            let rounds = load::in_turns(extent.rounds, sides, |round| {
                progress.say(&format!(
                    "{round_trip} ms away, {in_flight} in flight, round {round}"
                ));
            })
            .await;
            let named = |what: &str| format!("distance.{round_trip}ms.{in_flight}.{what}");
            report.push(Row::of(named("p50"), "ms", &rounds, |it| it.percentile(50)));
            let rate = Row::of(named("rate"), "calls/s", &rounds, Sample::calls_per_second);
            report.push(rate);
        }
        provider.stop().await;
    }
}

/// A proxy that delays, on a thread of its own. Ends with this value.
struct Proxy {
    address: String,
    endpoint: Endpoint,
    _stop: oneshot::Sender<()>,
}

impl Proxy {
    fn start(server: Endpoint, round_trip: Duration) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (started, address) = mpsc::channel();
        let to = server.clone();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let relay = Relay::to(&to).await;
                if !round_trip.is_zero() {
                    relay.set(Line::Delayed(round_trip / 2));
                }
                started.send(relay.address.clone()).unwrap();
                // An error: the value is gone.
                drop(stopped.await);
            });
        });
        let address = address.recv().unwrap();
        let endpoint = Endpoint {
            address: Address::parse(&address).unwrap(),
            ..server
        };
        Self {
            address,
            endpoint,
            _stop: stop,
        }
    }
}
