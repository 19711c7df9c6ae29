//! Single decrypts in this process, with and without the provider's batcher.

use std::{sync::Arc, time::Duration};

use kms_daemon::kms::{batcher::DecryptBatcher, hedge::Hedges};
use kms_domain::prepare::PreparedDecrypt;
use kms_node::{
    auth::{Session, SessionSettings},
    clock::SystemClock,
};
use openbao_client::{
    login::{
        jwt::{ClaimRules, JwtRole},
        jwt_file::JwtFile,
    },
    transit::Transit,
};
use prometheus_client::metrics::counter::Counter;

use crate::{load::Call, stage::Stage};

const TIMES: SessionSettings = SessionSettings {
    login_before_token_expiry: Duration::from_secs(60),
    token_renewal_increment: Duration::from_secs(3600),
    login_timeout: Duration::from_secs(10),
};

/// Decrypts through the batcher and without it, over the same connections.
pub(crate) fn with_and_without(
    stage: &Stage,
    role: JwtRole,
    transit: Transit,
    prepared: &Arc<Vec<PreparedDecrypt>>,
) -> (Call, Call) {
    let rules = ClaimRules {
        expected_issuer: None,
        expected_audience: Vec::new(),
        expected_subject: None,
        clock_skew_leeway: Duration::ZERO,
        min_remaining: Duration::ZERO,
    };
    let login = Arc::new(JwtFile::new(role, stage.tenant.jwt_file(), rules));
    let clock = Arc::new(SystemClock);
    let (session, logging_in) = Session::new(TIMES, login, clock, Arc::new(|_| {}));
    tokio::spawn(logging_in.run());
    let batcher = DecryptBatcher::new(
        transit.clone(),
        session.clone(),
        Hedges::new(Counter::default()),
    );
    let with: Call = {
        let prepared = Arc::clone(prepared);
        Arc::new(move |number| {
            let (batcher, wanted) = (batcher.clone(), prepared[number % prepared.len()].clone());
            Box::pin(async move { drop(batcher.decrypt(wanted).await.ok().unwrap()) })
        })
    };
    let prepared = Arc::clone(prepared);
    let without: Call = Arc::new(move |number| {
        let (session, transit) = (session.clone(), transit.clone());
        let wanted = prepared[number % prepared.len()].clone();
        Box::pin(async move {
            let decrypting = session.call(async |token| {
                let data = &wanted.associated_data;
                transit.decrypt(&token, &wanted.ciphertext, data).await
            });
            drop(decrypting.await.ok().unwrap());
        })
    });
    (with, without)
}
