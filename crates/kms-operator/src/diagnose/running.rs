//! The running provider's own view, read from its `/why`: its connections, its login and its sandbox,
//! which a check in another process cannot see.

use std::{fs, time::Duration};

use kms_domain::digest::TextHash;
use kms_node::{
    advice::{self, Cause, Values, node},
    config::{Config, Listener},
    plain_http::{self, GetError, HttpUrl},
    report::{CheckResult, ImpactClass, counted, one_line},
    why::{self, Failed, SOCKET_LOST, Why},
};

use super::{Check, facts::Facts};

/// Nothing that the running provider depends on fails for it.
pub const WHY: Check = Check {
    id: "provider.why",
    title: "View of the running provider",
    needs: &["config.validate"],
    evaluate,
};

/// The provider answers from memory; the limit allows for an overloaded machine.
const LIMIT: Duration = Duration::from_secs(5);

/// Why the view is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WhyError {
    /// There is no listener to ask, or its port differs at each start.
    #[error("server.healthAddress names no port to ask on")]
    NoListener,
    /// No answer.
    #[error(transparent)]
    Get(#[from] GetError),
    /// An answer of another shape.
    #[error("the answer on server.healthAddress is not that of this release")]
    Shape(#[source] serde_json::Error),
}

/// Asks the running provider once.
pub(crate) async fn ask(config: &Config) -> Result<Why, WhyError> {
    let listener = config.server.health.as_ref().map(Listener::bind_to);
    let listener = listener.filter(|(_, port)| *port != 0);
    let url = HttpUrl::local(listener.ok_or(WhyError::NoListener)?, why::PATH);
    let body = plain_http::get(&url, plain_http::JSON, LIMIT).await?;
    serde_json::from_str(&body).map_err(WhyError::Shape)
}

fn evaluate(facts: &Facts) -> Option<Vec<CheckResult>> {
    let why = match facts.node.as_ref()?.why.as_ref() {
        None => return Some(vec![WHY.skip("the provider is not running")]),
        Some(Err(error)) => return Some(vec![WHY.skip(one_line(error)).code("unread")]),
        Some(Ok(why)) => why,
    };
    let mut found = Findings {
        facts,
        unhealthy: why.reasons.iter().any(|reason| reason != SOCKET_LOST),
        checks: Vec::new(),
    };
    for file in &why.files {
        if let Some(reason) = &file.unreadable {
            let (cause, values) = of_file(reason, file);
            let message = format!(
                "the running provider cannot read {} {}: {reason}",
                file.setting, file.path
            );
            found.push("file", message, cause, &values);
        }
    }
    if let Some((path, other)) = other_bundle(facts.config()?, why) {
        let message = format!(
            "the running provider does not use the present content of openbao.caCertFile {path}{other}"
        );
        found.push("trust", message, &node::CA_BUNDLE_OUTDATED, &[]);
    }
    if let Some(failed) = &why.login.last_failure {
        let message = login(facts, why, failed);
        found.push("login", message, &node::PROVIDER_DISCONNECTED, &[]);
    }
    if why.login.fallback {
        let message = "the running provider uses the standby identity auth.fallback".to_owned();
        found.push("fallback", message, &advice::login::FALLBACK_IN_USE, &[]);
    }
    for (probe, probe_name, code) in [
        (
            &why.metadata_probe,
            "reading of the key's metadata",
            "metadata",
        ),
        (&why.deep_probe, "round trip through OpenBao", "round_trip"),
    ] {
        if !probe.passed
            && let Some(failed) = &probe.last_failure
        {
            let message = format!("the running provider's last {probe_name} failed: {failed}");
            found.push(code, message, &node::PROVIDER_DISCONNECTED, &[]);
        }
    }
    if let Some(failed) = &why.state.unsaved {
        let message = format!("the running provider cannot save its state: {failed}");
        let cause = advice::state::of_unsaved(&failed.class);
        found.push("unsaved", message, cause, &[]);
    }
    if let Some(fault) = &why.socket.fault
        && why.reasons.iter().any(|reason| reason == SOCKET_LOST)
    {
        let message = format!("the socket's path does not lead to the running provider: {fault}");
        let advice = facts.advise(&node::SOCKET_UNUSABLE, &[]);
        let check = WHY.fail(message).because(advice).code("socket");
        found
            .checks
            .push(check.impact_class(ImpactClass::ApiServerAvailability));
    }
    if let Some(socket) = why.legacy_socket.as_ref().filter(|it| it.lost) {
        let fault = socket.fault.as_ref().map(|it| format!(": {it}"));
        let message = format!(
            "the path of the socket for vault-kubernetes-kms does not lead to the running provider{}",
            fault.unwrap_or_default()
        );
        let advice = facts.advise(&node::LEGACY_SOCKET_UNUSABLE, &[]);
        let check = WHY.fail(message).because(advice).code("legacy_socket");
        found
            .checks
            .push(check.impact_class(ImpactClass::ApiServerAvailability));
    }
    if why.log_lines_dropped > 0 {
        let lines = counted(why.log_lines_dropped, "log line");
        let message = format!("{lines} dropped, since the reader of the log was too slow");
        found.push("log", message, &node::LOG_LINES_DROPPED, &[]);
    }
    if found.checks.is_empty() {
        found.checks.push(WHY.pass().message(summary(why)));
    }
    Some(found.checks)
}

/// Findings of the running provider: failures while it is not ready, otherwise warnings.
struct Findings<'a> {
    facts: &'a Facts,
    unhealthy: bool,
    checks: Vec<CheckResult>,
}

impl Findings<'_> {
    fn push(&mut self, code: &'static str, message: String, cause: &Cause, values: Values<'_>) {
        let check = match self.unhealthy {
            true => WHY.fail(message),
            false => WHY.warn(message),
        };
        self.checks.push(
            check
                .because(self.facts.advise(cause, values))
                .code(code)
                .impact_class(ImpactClass::ApiServerAvailability),
        );
    }
}

/// The CA bundle, when the running provider uses another content of it than the one that this user
/// reads.
fn other_bundle(config: &Config, why: &Why) -> Option<(String, String)> {
    let path = &config.openbao.ca_cert_file;
    let mut files = why.files.iter();
    let bundle = files.find(|file| file.setting == why::CA_BUNDLE)?;
    let used = bundle.hash_in_use.as_ref()?;
    let present = fs::read(path).ok()?;
    let present = TextHash::of(&String::from_utf8_lossy(&present));
    let refused = bundle.refused.as_ref();
    let refused = refused.map_or_else(String::new, |why| format!(": {why}"));
    (present.as_str() != used).then(|| (path.display().to_string(), refused))
}

fn login(facts: &Facts, why: &Why, failed: &Failed) -> String {
    let token = match why.login.token_remaining_seconds {
        Some(seconds) => format!("its token is good for {seconds} s"),
        None => "it has no token".to_owned(),
    };
    let own = match &facts.login {
        Some(Ok(())) => "; the login of this check works",
        Some(Err(_)) | None => "",
    };
    format!(
        "the running provider cannot log in ({} attempts in a row): {failed}; {token}{own}",
        why.login.failures_in_a_row
    )
}

fn of_file<'a>(
    reason: &str,
    file: &'a why::File,
) -> (&'static Cause, Vec<(&'static str, &'a str)>) {
    match reason {
        "sandbox" => (&node::SANDBOX_OUTDATED, Vec::new()),
        "missing" => (
            &node::MISCONFIGURED,
            vec![("missing", &*file.path), ("setting", &*file.setting)],
        ),
        _ => (&node::MISCONFIGURED, vec![("path", &*file.path)]),
    }
}

fn summary(why: &Why) -> String {
    let peers = why.openbao.iter().flat_map(|server| &server.peers);
    let connections: usize = peers.map(|peer| peer.in_use + peer.idle).sum();
    let token = why.login.token_remaining_seconds.unwrap_or_default();
    format!(
        "runs {} s; token for {token} s, {connections} connections to OpenBao",
        why.uptime_seconds
    )
}
