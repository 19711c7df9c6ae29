//! Faults between the node and its token: the server, its clock, TLS, the JWT, the login, the
//! policy.

use std::{
    net::TcpListener,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use openbao_lab::admin::login::JwtRole;
use serde_json::{Value, json};
use testkit::{
    fake::{FakeOpenBao, Handshake, Reply, SERVER_NAME},
    files,
    openbao::{OpenBao, shared_openbao},
    tenant::{ROLE, SUBJECT},
};
use tokio::{runtime, sync::oneshot};

use super::fault::Patient;

/// Changes one setting to `bad`, requires the finding, and changes it back.
async fn misconfigured(setting: &str, bad: &str, id: &str, words: &str, remedy: &str) {
    let mut patient = Patient::new().await;
    let good = patient.node.config.pointer(setting).unwrap().clone();
    patient.configure(setting, bad);
    patient.shows(4, id, words).says(remedy);
    patient.configure(setting, good);
    patient.is_well();
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("https://{}", closed.local_addr().unwrap());
    drop(closed);
    let remedy = "check that OpenBao runs";
    let id = "openbao.reachable";
    misconfigured("/openbao/address", &address, id, "refused", remedy).await;
}

#[tokio::test]
async fn a_server_name_that_the_certificate_does_not_have() {
    let (words, remedy) = ("no trusted TLS connection", "openbao.tlsServerName");
    let setting = "/openbao/tlsServerName";
    misconfigured(setting, "other.test", "openbao.reachable", words, remedy).await;
}

#[tokio::test]
async fn a_ca_that_did_not_sign_the_certificate() {
    let patient = Patient::new().await;
    let other = FakeOpenBao::start([]).await;
    let file = patient.node.tenant.ca_file();
    files::replace(&file, other.ca_pem().as_bytes(), 0o644);
    let found = patient.shows(4, "openbao.reachable", "not signed by the configured CA");
    found
        .says("CA bundle of a backup")
        .warns("do not trust the CA of an unknown server");
    let right = std::fs::read(shared_openbao().await.ca_file()).unwrap();
    files::replace(&file, &right, 0o644);
    patient.is_well();
}

#[tokio::test]
async fn a_server_that_is_sealed() {
    let mut server = OpenBao::start().await;
    let patient = Patient::on(&server).await;
    server.seal().await;
    let found = patient.shows(4, "openbao.reachable", "is sealed");
    let text = patient.node.run(&["doctor"]);
    super::reports::assert_text("sealed", &patient.node, &text);
    found.carried_out_cures(&patient).await;
}

/// A fake that answers while a test waits for `doctor`, until this is dropped: its CA and address.
pub(crate) struct Scripted {
    pub(crate) ca_pem: String,
    pub(crate) address: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    pub(crate) async fn start(script: Vec<Reply>) -> Self {
        Self::start_with(Handshake::Good, script).await
    }

    pub(crate) async fn start_with(handshake: Handshake, script: Vec<Reply>) -> Self {
        let (started, facts) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let fake = FakeOpenBao::start_with(handshake, script).await;
                let address = fake.endpoint().address.to_string();
                started.send((fake.ca_pem().to_owned(), address)).unwrap();
                ended.await.ok();
            });
        });
        let (ca_pem, address) = facts.await.unwrap();
        Self {
            ca_pem,
            address,
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().map(JoinHandle::join);
    }
}

/// Real servers on this machine share its clock, so this one only claims another time.
#[tokio::test]
async fn a_server_whose_clock_is_wrong() {
    let unsealed = json!({"initialized": true, "sealed": false}).to_string();
    let far = "Fri, 01 Jan 2038 00:00:00 GMT".to_owned();
    let refused = || Reply::Json(400, json!({"errors": ["refused"]}).to_string());
    let fake = Scripted::start(vec![
        Reply::Dated(unsealed.clone(), far),
        refused(),
        Reply::ok(unsealed),
        refused(),
    ])
    .await;
    let mut patient = Patient::new().await;
    let ca = patient.node.tenant.ca_file();
    files::replace(&ca, fake.ca_pem.as_bytes(), 0o644);
    patient.configure("/openbao/address", fake.address.as_str());
    patient.configure("/openbao/tlsServerName", SERVER_NAME);
    let found = patient.shows(4, "openbao.clock", "s ahead of this node's");
    found.says("correct it with NTP");
    // With the right time only the login is refused, since the fake is no OpenBao.
    patient.shows(4, "openbao.auth", "refused the request");
}

/// Replaces the JWT by one with this claim, requires the finding, and puts a good one back.
async fn claiming(claim: &str, value: impl Into<Value>, words: &str, remedy: &str) {
    let patient = Patient::new().await;
    let tenant = &patient.node.tenant;
    let mut claims = tenant.claims();
    claims[claim] = value.into();
    tenant.write_jwt(&claims);
    patient.shows(4, "jwt.local", words).says(remedy);
    tenant.write_jwt(&tenant.claims());
    patient.is_well();
}

#[expect(
    clippy::disallowed_methods,
    reason = "JWTs are checked against the real time"
)]
fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs()
}

#[tokio::test]
async fn a_jwt_that_has_expired() {
    let new = "have a new JWT issued";
    claiming("exp", unix_now() - 600, "it expired 60", new).await;
}

#[tokio::test]
async fn a_jwt_that_expires_too_soon() {
    let new = "have a new JWT issued";
    claiming("exp", unix_now() + 60, "are required", new).await;
}

#[tokio::test]
async fn a_jwt_from_the_future() {
    let clocks = "compare the clocks";
    claiming("nbf", unix_now() + 900, "it is not valid yet", clocks).await;
}

#[tokio::test]
async fn a_jwt_with_other_claims_than_configured() {
    let remedy = "have a JWT issued with the configured claims";
    claiming("aud", "other", "auth.jwt.expectedAudience", remedy).await;
    claiming("iss", "https://other", "auth.jwt.expectedIssuer", remedy).await;
    claiming("sub", "other", "auth.jwt.expectedSubject", remedy).await;
}

#[tokio::test]
async fn a_role_that_does_not_exist() {
    let (id, words) = ("openbao.auth", "has no such role");
    misconfigured(
        "/auth/jwt/role",
        "nobody",
        id,
        words,
        "/role; correct auth.jwt.role",
    )
    .await;
}

#[tokio::test]
async fn a_login_that_is_not_mounted() {
    let (setting, bad) = ("/auth/jwt/mountPath", "auth/nothing");
    let words = "login failed";
    misconfigured(
        setting,
        bad,
        "openbao.auth",
        words,
        "correct auth.jwt.mountPath",
    )
    .await;
}

#[tokio::test]
async fn a_role_for_another_audience() {
    let patient = Patient::new().await;
    let tenant = &patient.node.tenant;
    let admin = shared_openbao().await.admin();
    let role = |audience| JwtRole {
        audience,
        subject: SUBJECT,
        policy: &tenant.policy,
    };
    let mount = &tenant.jwt_mount;
    admin
        .write_jwt_role(mount, ROLE, role("other"))
        .await
        .unwrap();
    let found = patient.shows(4, "openbao.auth", "not among bound_audiences");
    found.says("bound_audiences=AUDIENCE");
    admin
        .write_jwt_role(mount, ROLE, role("kms"))
        .await
        .unwrap();
    patient.is_well();
}

/// OpenBao would refuse the first three with one text, and never sees them.
#[tokio::test]
async fn a_file_that_holds_more_than_a_jwt() {
    let patient = Patient::new().await;
    let tenant = &patient.node.tenant;
    let sound = tenant.jwt(&tenant.claims());
    let mut eternal = tenant.claims();
    eternal.as_object_mut().unwrap().remove("exp");
    for (text, words, cause) in [
        (
            format!("\u{feff}{}", *sound),
            "a byte order mark",
            "jwt_malformed",
        ),
        (
            format!("\"{}\"", *sound),
            "quotation marks",
            "jwt_malformed",
        ),
        (format!("{}\0", *sound), "a NUL byte", "jwt_malformed"),
        (
            tenant.jwt(&eternal).to_string(),
            "it has no exp",
            "jwt_no_expiry",
        ),
    ] {
        files::replace(&tenant.jwt_file(), text.as_bytes(), 0o640);
        patient.shows(4, "jwt.local", words);
        let report = patient.node.run(&["doctor", "--output", "json"]);
        let report: Value = serde_json::from_str(&report.out).unwrap();
        assert_eq!(report["cause"], cause);
    }
    files::replace(&tenant.jwt_file(), sound.as_bytes(), 0o640);
    patient.is_well();
}

#[tokio::test]
async fn a_lease_that_is_too_short() {
    let patient = Patient::new().await;
    let path = format!("auth/{}/role/{ROLE}", patient.node.tenant.jwt_mount);
    let admin = shared_openbao().await.admin();
    let short = json!({"role_type": "jwt", "token_ttl": "30s", "token_max_ttl": "30s"});
    admin.write(&path, &short).await.unwrap();
    let found = patient.shows(4, "openbao.auth", "lease of 30 s");
    found.carried_out_cures(&patient).await;
}

/// Each thing that a policy can lack, and the check that finds it.
#[tokio::test]
async fn a_policy_that_grants_too_little() {
    let patient = Patient::new().await;
    for (path, id) in [
        ("/keys/etcd", "transit.capabilities"),
        ("/encrypt/etcd", "transit.capabilities"),
        ("/decrypt/etcd", "transit.capabilities"),
        ("/config/keys", "transit.config_capability"),
        ("sys/capabilities-self", "transit.capabilities"),
    ] {
        let without = |policy: String| policy.replace(&format!("{path}\""), "/nothing\"");
        patient.node.grant(without).await;
        let words = if path.starts_with('/') {
            path
        } else {
            "the policy of the token does not allow it"
        };
        let found = patient.shows(4, id, words);
        found
            .warns("do not give the provider a root token")
            .carried_out_cures(&patient)
            .await;
    }
}

#[tokio::test]
async fn a_policy_that_grants_too_much() {
    let patient = Patient::new().await;
    let mount = &patient.node.tenant.transit_mount;
    for (path, capability) in [
        ("keys/etcd/rotate", "update"),
        ("export/encryption-key/etcd", "read"),
        ("keys/etcd", "delete"),
        ("encrypt/etcd", "create"),
    ] {
        let more = format!("path \"{mount}/{path}\" {{ capabilities = [\"{capability}\"] }}\n");
        // Two blocks for one path are one with the capabilities of both.
        patient.node.grant(|policy| policy + &more).await;
        let words = format!("{capability} on {mount}/{path}");
        let found = patient.shows(4, "transit.capabilities", &words);
        found
            .says("token_no_default_policy=true")
            .carried_out_cures(&patient)
            .await;
    }
}
