//! OpenBao as it answers without a login: certificate, seal status, active server, clock.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use kms_node::{
    advice::{Advice, node, openbao},
    report::{CheckResult, ImpactClass, one_line},
};
use openbao_client::{
    endpoint::{Address, is_glued},
    failure::{Failure, FailureClass},
    leader::Leader,
};
use serde_json::json;

use super::{Check, facts::Facts};

/// The settings make a client. Nothing is sent.
pub const TLS: Check = Check {
    id: "openbao.tls",
    title: "Settings of the connection to OpenBao",
    needs: &["config.validate", "config.files/openbao.caCertFile"],
    evaluate: tls,
};

/// A server proves to be the configured one, answers, and is unsealed.
pub const REACHABLE: Check = Check {
    id: "openbao.reachable",
    title: "Connection to OpenBao and its seal status",
    needs: &["openbao.tls"],
    evaluate: reachable,
};

/// Somebody does the work: this server, or one that it forwards to.
pub const LEADER: Check = Check {
    id: "openbao.leader",
    title: "Active server of OpenBao",
    needs: &["openbao.reachable"],
    evaluate: |facts| Some(vec![active_server(facts)?]),
};

/// Credentials mean the same time on both sides.
pub const CLOCK: Check = Check {
    id: "openbao.clock",
    title: "Clocks of node and OpenBao",
    needs: &["openbao.reachable"],
    evaluate: clock,
};

fn tls(facts: &Facts) -> Option<Vec<CheckResult>> {
    let ca = &facts.config()?.openbao.ca_cert_file;
    let check = match facts.connection.as_ref()? {
        Ok(()) if fs::read(ca).is_ok_and(|pem| is_glued(&pem)) => TLS
            .warn(format!(
                "{} has -----END CERTIFICATE----- and -----BEGIN CERTIFICATE----- on one line",
                ca.display()
            ))
            .because(facts.advise(&openbao::CA_BUNDLE_GLUED, &[]))
            .impact_class(ImpactClass::Diagnosis),
        Ok(()) => TLS.pass(),
        Err(error) => TLS
            .fail(one_line(error))
            .because(facts.advise(openbao::of_connection(error), &[]))
            .impact_class(ImpactClass::ApiServerAvailability),
    };
    Some(vec![check])
}

fn reachable(facts: &Facts) -> Option<Vec<CheckResult>> {
    let server = facts.server.as_ref()?;
    let address = &server.address;
    let fail = |message: String, code: &'static str, cause| {
        REACHABLE
            .fail(message)
            .because(facts.advise(cause, &[]))
            .code(code)
            .impact_class(ImpactClass::ApiServerAvailability)
    };
    let check = match &server.status {
        Ok(status) if !status.initialized => fail(
            format!("{address} was never initialized, so it holds no key"),
            "not_initialized",
            &openbao::UNINITIALIZED,
        ),
        Ok(status) if status.sealed => fail(
            format!("{address} is sealed"),
            FailureClass::Sealed.label(),
            &openbao::SEALED,
        ),
        Ok(_) => REACHABLE.pass(),
        // Something in between, or a server that keeps its seal status to itself.
        Err(failure) if answered(failure) => REACHABLE
            .warn(format!(
                "{address} answers, but does not tell whether it is sealed: {failure}"
            ))
            .impact("none, if the login works")
            .impact_class(ImpactClass::Diagnosis),
        Err(failure) => fail(
            format!("{address}: {failure}{}", presented(facts)),
            failure.class().label(),
            openbao::of_request(failure),
        ),
    };
    let passed_over = facts.passed_over.iter().map(|other| {
        let found = match &other.status {
            Ok(_) if !other.has_leader => "it knows no active server".to_owned(),
            Ok(status) if status.sealed => "it is sealed".to_owned(),
            Ok(_) => "it was never initialized".to_owned(),
            Err(failure) => failure.to_string(),
        };
        let (in_use, other_address) = (address.to_string(), other.address.to_string());
        let values = [
            ("address_in_use", &*in_use),
            ("address_passed_over", &*other_address),
        ];
        REACHABLE
            .warn(format!("{} does not serve: {found}", other.address))
            .because(facts.advise(&openbao::PASSED_OVER, &values))
            .code("passed_over")
            .impact_class(ImpactClass::ApiServerAvailability)
    });
    Some([check].into_iter().chain(passed_over).collect())
}

/// The chain of a server that is not trusted, its own certificate first.
fn presented(facts: &Facts) -> String {
    let chain = facts.presented.iter().enumerate();
    let chain = chain.map(|(place, it)| format!("; certificate {} presented: {it}", place + 1));
    chain.collect()
}

fn active_server(facts: &Facts) -> Option<CheckResult> {
    let address = &facts.server.as_ref()?.address;
    Some(match &facts.leader {
        Some(Ok(Leader::Itself)) => LEADER.pass(),
        Some(Ok(Leader::Another)) => LEADER.pass().message(format!(
            "{address} is a standby and knows the active server"
        )),
        Some(Ok(Leader::Nobody)) => LEADER
            .fail(format!(
                "{address} is unsealed, but a standby that knows no active server"
            ))
            .because(facts.advise(&openbao::NO_LEADER, &[]))
            .impact_class(ImpactClass::ApiServerAvailability),
        Some(Err(failure)) => LEADER.skip(format!("{address} does not tell: {failure}")),
        None => LEADER.skip(format!("{address} did not tell whether it is sealed")),
    })
}

fn answered(failure: &Failure) -> bool {
    match failure.class() {
        FailureClass::InvalidRequest
        | FailureClass::Unauthenticated
        | FailureClass::PermissionDenied
        | FailureClass::NotFound
        | FailureClass::RateLimited
        | FailureClass::Unknown => true,
        // A proxy may refuse this path and pass on those that the provider needs.
        FailureClass::NotOpenBao => failure.http_status().is_some_and(|it| it >= 400),
        _ => false,
    }
}

fn clock(facts: &Facts) -> Option<Vec<CheckResult>> {
    let config = facts.config()?;
    let Some(leeway) = config.auth.clock_skew_leeway() else {
        return Some(vec![
            CLOCK.skip("the login has no dates to compare with a clock"),
        ]);
    };
    let server = facts.server.as_ref()?;
    let Some(date) = server.status.as_ref().ok().and_then(|status| status.date) else {
        let skipped = CLOCK.skip("OpenBao did not say its time");
        return Some(vec![skipped]);
    };
    Some(vec![judge_clock(
        Skew::measured(date, server.before, server.after),
        leeway,
        &server.address,
        facts.advise(&node::CLOCK_WRONG, &[]),
    )])
}

/// How far the server's clock is ahead (or behind) at least and at most, in whole seconds. The
/// server names a second, and the answer took some time, so there is no single number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Skew {
    ahead: bool,
    least: u64,
    most: u64,
}

impl Skew {
    fn measured(date: SystemTime, before: SystemTime, after: SystemTime) -> Self {
        let end = date + Duration::from_secs(1);
        let since = |a: SystemTime, b: SystemTime| a.duration_since(b).unwrap_or_default();
        let whole = |least: Duration, most: Duration| {
            (
                least.as_secs(),
                most.as_secs() + u64::from(most.subsec_nanos() > 0),
            )
        };
        let ((ahead_least, ahead_most), (behind_least, behind_most)) = (
            whole(since(date, after), since(end, before)),
            whole(since(before, end), since(after, date)),
        );
        if behind_least > 0 || behind_most > ahead_most {
            Self {
                ahead: false,
                least: behind_least,
                most: behind_most,
            }
        } else {
            Self {
                ahead: true,
                least: ahead_least,
                most: ahead_most,
            }
        }
    }
}

fn judge_clock(skew: Skew, leeway: Duration, address: &Address, advice: Advice) -> CheckResult {
    let Skew { ahead, least, most } = skew;
    let leeway = leeway.as_secs();
    let details = |check: CheckResult| {
        check
            .detail("skewSecondsAtLeast", json!(least))
            .detail("skewSecondsAtMost", json!(most))
            .detail("leewaySeconds", json!(leeway))
    };
    if least == 0 {
        return details(CLOCK.pass().message(format!("at most {most} s apart")));
    }
    let direction = if ahead { "ahead of" } else { "behind" };
    let message = format!(
        "the clock of {address} is {least} to {most} s {direction} this node's; \
         clockSkewLeeway is {leeway} s"
    );
    if least <= leeway {
        return details(
            CLOCK
                .warn(message)
                .because(advice)
                .impact("no data is lost: the difference is within the leeway, so logins succeed")
                .impact_class(ImpactClass::Diagnosis),
        );
    }
    details(
        CLOCK
            .fail(message)
            .because(advice)
            .code(if ahead { "ahead" } else { "behind" })
            .impact_class(ImpactClass::ApiServerAvailability),
    )
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use kms_node::advice::Site;

    fn skew(date: u64, before_ms: u64, after_ms: u64) -> (bool, u64, u64) {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let Skew { ahead, least, most } =
            Skew::measured(at(date * 1000), at(before_ms), at(after_ms));
        (ahead, least, most)
    }

    #[test]
    fn the_bounds_hold_whatever_part_of_the_second_the_server_meant() {
        // The same second, at once: either may be up to a second ahead.
        assert_eq!(skew(100, 100_500, 100_500), (true, 0, 1));
        assert_eq!(skew(100, 100_900, 101_100), (false, 0, 2));
        assert_eq!(skew(100, 99_900, 100_300), (true, 0, 2));
        // 40 s ahead by the date, 40 s behind by it.
        assert_eq!(skew(140, 100_500, 100_500), (true, 39, 41));
        assert_eq!(skew(60, 100_500, 100_500), (false, 39, 41));
        // An answer that took long makes the bounds wide.
        assert_eq!(skew(140, 100_000, 110_000), (true, 30, 41));
    }

    #[test]
    fn only_what_is_certainly_beyond_the_leeway_fails() {
        let status = |least, most| {
            let skew = Skew {
                ahead: true,
                least,
                most,
            };
            let address = Address::parse("https://bao.example:8200").unwrap();
            let advice = node::CLOCK_WRONG.advise(&Site::none(), &[]);
            let check = judge_clock(skew, Duration::from_secs(30), &address, advice);
            serde_json::to_value(check).unwrap()["status"].clone()
        };
        assert_eq!(status(0, 40), "pass");
        assert_eq!(status(30, 32), "warn");
        assert_eq!(status(31, 33), "fail");
    }
}
