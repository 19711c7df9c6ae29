//! Evaluates the checks in their order. Facts are gathered just before their checks, so a walk does
//! nothing after the first failure.

use std::time::Duration;

use etcd_snapshot::file::OnProgress;
use kms_node::{
    advice::{self, Cause},
    config::{Config, Environment, Loaded},
    connection::{Connection, ConnectionError},
    probe::{KmsClient, ProbeError, RoundTrip},
    process_identity::IdentityError,
    report::CheckResult,
};
use openbao_client::endpoint::Endpoint;
use tokio::runtime::Runtime;

use super::{
    evidence,
    sequence::{FIRST, Gather, SEQUENCE, Step},
    service::SERVICE_LIMIT,
};
use crate::{
    diagnose::{
        facts::{Evidence, Facts},
        node::{Live, Node},
    },
    recovery::{
        EtcdSource,
        verify_pair::{self, Depth, Watch},
    },
};

/// The input of a walk, beside the facts.
pub struct Material<'a> {
    /// Configuration and where it came from.
    pub loaded: &'a Loaded,
    /// The own user.
    pub environment: &'a Environment,
    /// The outcome of [`become_provider`](crate::diagnose::node::become_provider).
    pub became: Result<(), IdentityError>,
    /// etcd data to try the key on.
    pub sources: Vec<EtcdSource>,
    /// The prefix of the objects in it.
    pub prefix: Option<String>,
    /// How the reading comes on.
    pub on_progress: OnProgress<'a>,
}

/// Limit of the three calls of a round trip.
const TRIP_LIMIT: Duration = Duration::from_secs(15);

/// Evaluates the checks of the configuration; `None` if all passed.
pub fn begin(
    facts: &Facts,
    checks: &mut Vec<CheckResult>,
) -> Option<(&'static Cause, CheckResult)> {
    let stopped = ask(&FIRST, facts, checks)?;
    for (_, steps) in SEQUENCE {
        skip(steps, &stopped, checks);
    }
    Some(stopped)
}

/// Evaluates the other checks up to the first failure; `None` if all passed.
pub fn walk(
    runtime: &Runtime,
    material: Material<'_>,
    facts: &mut Facts,
    checks: &mut Vec<CheckResult>,
) -> Option<(&'static Cause, CheckResult)> {
    let mut walk = Walk {
        runtime,
        material,
        endpoint: None,
        openbao: None,
    };
    let mut stopped: Option<(&'static Cause, CheckResult)> = None;
    for (gather, steps) in SEQUENCE {
        match &stopped {
            Some(stopped) => skip(steps, stopped, checks),
            None => {
                walk.gather(gather, facts);
                stopped = ask(steps, facts, checks);
            }
        }
    }

    if stopped.is_some() && facts.trip.is_none() {
        walk.measure_service(facts);
    }

    if stopped.is_some() && facts.etcd.is_empty() {
        walk.count_etcd(facts);
        let counted: Vec<_> = facts.etcd.iter().map(evidence::counted_only).collect();
        let skipped = checks.iter().position(|it| it.id() == evidence::ETCD.id);
        if let Some(skipped) = skipped.filter(|_| !counted.is_empty()) {
            checks.splice(skipped..=skipped, counted);
        }
    }

    // Without a state, etcd tells a first installation from a loss.
    if let Some((cause, check)) = &mut stopped
        && *cause == &advice::key::ABSENT
        && let Some(decided) = evidence::of_absent_key(facts)
    {
        *cause = decided;
        let decided = check.clone().because(facts.advise(decided, &[]));
        checks
            .iter_mut()
            .filter(|it| *it == check)
            .for_each(|it| *it = decided.clone());
        *check = decided;
    }
    stopped
}

/// Evaluates one after the other. After a failure with a cause the rest is skipped.
fn ask(
    steps: &[Step],
    facts: &Facts,
    checks: &mut Vec<CheckResult>,
) -> Option<(&'static Cause, CheckResult)> {
    let mut stopped: Option<(&'static Cause, CheckResult)> = None;
    for Step { check, cause } in steps {
        if let Some(stopped) = &stopped {
            checks.push(check.skip(not_reached(stopped)));
            continue;
        }
        let results = (check.evaluate)(facts).unwrap_or_else(|| {
            // A check without facts must not count as passed.
            vec![check.fail("its facts are missing").code("unasked")]
        });
        for check in results {
            if !check.failed() || stopped.is_some() {
                checks.push(check);
                continue;
            }
            let means = match check.cause() {
                Some("unasked") => Some(&advice::openbao::INCONCLUSIVE),
                _ => cause(facts, &check),
            };
            match means {
                Some(cause) => {
                    checks.push(check.clone());
                    stopped = Some((cause, check));
                }
                None => checks.push(check.as_warning()),
            }
        }
    }
    stopped
}

fn skip(steps: &[Step], stopped: &(&'static Cause, CheckResult), checks: &mut Vec<CheckResult>) {
    for Step { check, .. } in steps {
        checks.push(check.skip(not_reached(stopped)));
    }
}

fn not_reached((_, check): &(&'static Cause, CheckResult)) -> String {
    format!("not reached: the walk ended at {}", check.id())
}

/// Connections of a walk in progress.
struct Walk<'a> {
    runtime: &'a Runtime,
    material: Material<'a>,
    endpoint: Option<Endpoint>,
    openbao: Option<Connection>,
}

impl Walk<'_> {
    fn config(&self) -> &Config {
        &self.material.loaded.config
    }

    fn gather(&mut self, gather: Gather, facts: &mut Facts) {
        match gather {
            Gather::Node => self.look_around(facts),
            Gather::Credential => self.read_credential(facts),
            Gather::Server => facts.connection = Some(self.ask_server(facts)),
            Gather::Key => self.ask_openbao(facts),
            Gather::Etcd => self.try_etcd(facts),
            Gather::Trials => self.try_key(facts),
            Gather::Provider => self.ask_again(facts),
            Gather::RoundTrip => self.call_provider(facts),
        }
    }

    fn look_around(&mut self, facts: &mut Facts) {
        let became = std::mem::replace(&mut self.material.became, Ok(()));
        let Loaded { config, path, .. } = self.material.loaded;
        let look = Node::look(config, path, self.material.environment, became);
        facts.node = Some(self.runtime.block_on(look));
        facts.stored = Some(config.state().load());
    }

    fn read_credential(&self, facts: &mut Facts) {
        let read = self.runtime.block_on(facts.read_credential(self.config()));
        if let Err(error) = read {
            facts.connection = Some(Err(error));
        }
    }

    fn ask_server(&mut self, facts: &mut Facts) -> Result<(), ConnectionError> {
        let config = self.config();
        let deadline = config.openbao.timeout;
        let endpoint = self.runtime.block_on(async {
            let endpoint = facts.ask_server(config).await?;
            match &facts.server {
                Some(server) if server.status.as_ref().is_ok_and(|it| !it.sealed) => {
                    facts.ask_leader(endpoint.clone(), deadline).await?;
                }
                _ => {}
            }
            Ok::<_, ConnectionError>(endpoint)
        })?;
        self.endpoint = Some(endpoint);
        Ok(())
    }

    fn ask_openbao(&mut self, facts: &mut Facts) {
        let Some(endpoint) = self.endpoint.take() else {
            return;
        };
        let config = self.config();
        let openbao = self.runtime.block_on(async {
            let openbao = Connection::new(config, endpoint)?;
            facts.ask_openbao(config, &openbao).await;
            Ok::<_, ConnectionError>(openbao)
        });
        match openbao {
            Ok(openbao) => self.openbao = Some(openbao),
            Err(error) => facts.connection = Some(Err(error)),
        }
    }

    /// With a login of its own for each source.
    fn try_etcd(&mut self, facts: &mut Facts) {
        let claims = evidence::claims(facts);
        let watch = Watch {
            reading: self.material.on_progress,
            trying: &|_| {},
            opening: &|_| {},
        };
        for source in &self.material.sources {
            let options = verify_pair::VerifyOptions {
                prefix: self.material.prefix.clone(),
                claims: claims.clone(),
                removed: Vec::new(),
                depth: Depth::Dek,
                names: false,
                sample: None,
                superseded: false,
            };
            facts.etcd.push(Evidence {
                source: source.name(),
                tried: true,
                pair: verify_pair::verify(self.config(), source, options, watch),
            });
        }
    }

    /// After a failure before the trial decryptions: counts the objects by the version that they
    /// need, with what is known of the key.
    fn count_etcd(&mut self, facts: &mut Facts) {
        for source in &self.material.sources {
            let pair = verify_pair::count(
                self.config(),
                source,
                self.material.prefix.clone(),
                evidence::claims(facts),
                evidence::live_key(facts),
                self.material.on_progress,
            );
            facts.etcd.push(Evidence {
                source: source.name(),
                tried: false,
                pair,
            });
        }
    }

    fn try_key(&mut self, facts: &mut Facts) {
        if let Some(openbao) = &self.openbao {
            self.runtime.block_on(facts.try_key(openbao));
        }
    }

    /// Status and state once more: a promotion may have come between them, or the provider may have
    /// come up on the way.
    fn ask_again(&mut self, facts: &mut Facts) {
        let config = self.config();
        if let Some(node) = &mut facts.node {
            self.runtime.block_on(node.ask_again(config));
        }
        facts.stored = Some(config.state().load());
    }

    /// Not during an outage of OpenBao: no call can succeed, and each failure counts against the health
    /// of the provider.
    fn measure_service(&mut self, facts: &mut Facts) {
        let live = facts.node.as_ref().map(|node| &node.live);
        let outage = facts.server.as_ref().is_some_and(|it| !it.is_unsealed());
        if outage || !matches!(live, Some(Live::Healthy(_) | Live::Failed(_))) {
            return;
        }
        let socket = &self.config().server.socket_path;
        let call = async || {
            KmsClient::new(socket, SERVICE_LIMIT)?
                .round_trip(None)
                .await
        };
        facts.service = Some(self.runtime.block_on(call()));
    }

    fn call_provider(&mut self, facts: &mut Facts) {
        let socket = &self.config().server.socket_path;
        let call = async || -> Result<RoundTrip, ProbeError> {
            let mut client = KmsClient::new(socket, TRIP_LIMIT)?;
            client.round_trip(None).await
        };
        facts.trip = Some(self.runtime.block_on(async {
            match call().await {
                // A promotion came between the two calls; it does not come again at once.
                Err(ProbeError::KeyChanged) => call().await,
                done => done,
            }
        }));
    }
}
