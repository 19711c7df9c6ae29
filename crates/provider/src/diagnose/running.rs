//! The running provider's own view, read from its `/why`: what a check with connections, a login and
//! a sandbox of its own cannot see.

use std::{fs, time::Duration};

use kms_domain::digest::TextHash;

use super::{NO_SERVICE, Question, facts::Facts};
use crate::{
    config::{Config, Listener},
    plain_http::{self, GetError, HttpUrl},
    report::{Check, ImpactClass, one_line, shell},
    telemetry::{
        endpoints::JSON,
        why::{self, Failed, Why},
    },
};

/// Nothing that the running provider depends on fails for it.
pub const WHY: Question = Question {
    id: "provider.why",
    title: "View of the running provider",
    needs: &["config.validate"],
    judge,
};

/// It is answered from memory; this is for a machine in trouble.
const LIMIT: Duration = Duration::from_secs(5);

/// Why the view is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WhyError {
    /// There is no listener to ask, or its port is chosen anew at each start.
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
    let body = plain_http::get(&url, JSON, LIMIT).await?;
    serde_json::from_str(&body).map_err(WhyError::Shape)
}

fn judge(facts: &Facts) -> Option<Vec<Check>> {
    let node = facts.node.as_ref()?;
    let why = match node.why.as_ref() {
        None => return Some(vec![WHY.skip("the provider is not running")]),
        Some(Err(error)) => return Some(vec![WHY.skip(one_line(error)).code("unread")]),
        Some(Ok(why)) => why,
    };
    let mut found = Findings {
        unhealthy: !why.reasons.is_empty(),
        checks: Vec::new(),
    };
    for file in &why.files {
        if let Some(reason) = &file.unreadable {
            found.push(
                "file",
                format!(
                    "the running provider cannot read {} {}: {reason}",
                    file.setting, file.path
                ),
                "its next login or renewal of trust fails; no data is lost",
                of_file(reason),
            );
        }
    }
    if let Some((path, other)) = other_bundle(facts.config()?, why) {
        found.push(
            "trust",
            format!("the running provider does not use the present content of openbao.caCertFile {path}{other}"),
            "it may reject the certificate of OpenBao, or trust one that it should not; no data is lost",
            "put a usable bundle in place, or restart the provider: systemctl restart bao-kms-provider",
        );
    }
    if let Some(failed) = &why.login.last_failure {
        found.push(
            "login",
            login(facts, why, failed),
            LOGIN_IMPACT,
            LOGIN_REMEDY,
        );
    }
    for (probe, what, code) in [
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
            found.push(
                code,
                format!("the running provider's last {what} failed: {failed}"),
                NO_SERVICE,
                "fix what the class names; if the checks of OpenBao above pass, the running provider \
                 sees another OpenBao than they do: systemctl restart bao-kms-provider",
            );
        }
    }
    if let Some(failed) = &why.state.unsaved {
        found.push(
            "unsaved",
            format!("the running provider cannot save its state: {failed}"),
            "what is in use stays in use; a new key version is not promoted, and no data is lost",
            of_disk(facts.config()?, &failed.class),
        );
    }
    if why.log_lines_dropped > 0 {
        found.push(
            "log",
            format!(
                "{} log lines were dropped, since nobody read the log in time",
                why.log_lines_dropped
            ),
            "the log has gaps",
            "see whether the reader of the log keeps up: systemctl status systemd-journald",
        );
    }
    if found.checks.is_empty() {
        found.checks.push(WHY.pass().message(summary(why)));
    }
    Some(found.checks)
}

const LOGIN_IMPACT: &str = "when the present token ends, kube-apiserver cannot read or write \
    encrypted objects through this node; no data is lost";
const LOGIN_REMEDY: &str = "fix what the class names; if the login of this check works, the running \
    provider does not see the same credential: restart it: systemctl restart bao-kms-provider";

/// What is not as it should be: a failure when the provider is not ready, else to be looked at.
struct Findings {
    unhealthy: bool,
    checks: Vec<Check>,
}

impl Findings {
    fn push(
        &mut self,
        code: &'static str,
        message: String,
        impact: &'static str,
        remedy: impl Into<String>,
    ) {
        let check = match self.unhealthy {
            true => WHY.fail(message),
            false => WHY.warn(message),
        };
        self.checks.push(
            check
                .code(code)
                .impact(impact)
                .impact_class(ImpactClass::ApiServerAvailability)
                .remediation(remedy),
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

fn of_file(reason: &str) -> &'static str {
    match reason {
        "sandbox" => {
            "its directory was replaced after the start, and the sandbox knows the former one: \
             systemctl restart bao-kms-provider"
        }
        "missing" => "put the file back; see what writes it",
        _ => "correct owner and mode of the file; doctor's check of files names them",
    }
}

fn of_disk(config: &Config, word: &str) -> String {
    let directory = shell(config.state_path.directory());
    match word {
        "no_space" => format!("make room: df -h {directory}; df -i {directory}"),
        "read_only" => format!("mount it read-write: findmnt -T {directory}; its errors: dmesg"),
        "directory_gone" => {
            format!("mount {directory} or put it back, with its files: findmnt -T {directory}")
        }
        "no_descriptors" => "raise LimitNOFILE: systemctl edit bao-kms-provider; open files: ls \
             /proc/$(pidof bao-kms-provider)/fd"
            .to_owned(),
        "foreign_state" => format!(
            "another pair of state files lies in {directory}: put back the files of the running \
             provider from a peer or a backup, and only then restart it"
        ),
        _ => format!("see owner, mode and disk: ls -ld {directory}; findmnt -T {directory}"),
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
