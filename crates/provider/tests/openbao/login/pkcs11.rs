//! The login with a certificate whose key is on a PKCS#11 token: SoftHSM, alone and behind a module
//! with faults.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};
use testkit::{
    files,
    openbao::shared_openbao,
    softhsm::{FaultyModule, KeyType, PIN, SoftToken, TOKEN, generate, module},
    tenant::{ROLE, Timing},
    wait::wait_until,
};
use tonic::Code;

use crate::{
    node::{Finished, IMPATIENT, Node, QUIET, TIMING},
    provider::{Provider, SOON, assert_decrypt_refused, to_decrypt},
    secrets::{files_below, spellings},
};

/// Label of the key.
const KEY: &str = "kms node";

/// A node with a token, and the CA of its certificates.
struct TokenNode {
    node: Node,
    token: SoftToken,
    key: KeyPair,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
}

impl TokenNode {
    async fn new(timing: Timing) -> Self {
        Self::with(timing, KeyType::P256, module()).await
    }

    async fn with(timing: Timing, key_type: KeyType, module: PathBuf) -> Self {
        let mut node = Node::new(timing).await;
        let token = SoftToken::new();
        let pem = generate(key_type);
        token.import(KEY, "01", &pem);

        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "node CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = ca.self_signed(&ca_key).unwrap();

        node.config["auth"] = json!({
            "method": "cert",
            "loginTimeout": "20s",
            "cert": {
                "mountPath": format!("auth/{}", mount(&node)),
                "name": ROLE,
                "source": "pkcs11",
                "minRemainingTtl": "1h",
                "pkcs11": {
                    "certificateFile": node.tenant.path().join("chain.pem"),
                    "modulePath": module,
                    "tokenLabel": TOKEN,
                    "keyLabel": KEY,
                    "pinFile": node.tenant.path().join("pin"),
                    "maxSessions": 2,
                },
            },
        });
        let this = Self {
            key: KeyPair::from_pem(&pem).unwrap(),
            ca: certificate.pem(),
            issuer: Issuer::new(ca, ca_key),
            node,
            token,
        };
        this.write_pin(PIN);
        this.write_certificate(&this.certificate(1));

        let admin = shared_openbao().await.admin();
        let path = format!("sys/auth/{}", mount(&this.node));
        admin.write(&path, &json!({"type": "cert"})).await.unwrap();
        this.write_role("30m", "1h").await;
        this
    }

    async fn write_role(&self, ttl: &str, max_ttl: &str) {
        let role = json!({
            "certificate": self.ca,
            "allowed_common_names": "node-1",
            "token_policies": [self.node.tenant.policy],
            "token_ttl": ttl,
            "token_max_ttl": max_ttl,
            "token_no_default_policy": true,
        });
        let path = format!("auth/{}/certs/{ROLE}", mount(&self.node));
        let admin = shared_openbao().await.admin();
        admin.write(&path, &role).await.unwrap();
    }

    /// A certificate of the node, not yet issued.
    fn certificate(&self, serial: u64) -> CertificateParams {
        let mut certificate = CertificateParams::default();
        let subject = &mut certificate.distinguished_name;
        subject.push(DnType::CommonName, "node-1");
        certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        certificate.serial_number = Some(SerialNumber::from(serial));
        certificate
    }

    fn write_certificate(&self, certificate: &CertificateParams) {
        let issued = certificate.signed_by(&self.key, &self.issuer).unwrap();
        files::replace(&self.file("chain.pem"), issued.pem().as_bytes(), 0o640);
    }

    fn write_pin(&self, pin: &str) {
        files::replace(&self.file("pin"), format!("{pin}\n").as_bytes(), 0o640);
    }

    /// Refuses the certificate with this serial number.
    async fn revoke(&self, serial: u64) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        let path = format!("auth/{}/crls/old", mount(&self.node));
        let admin = shared_openbao().await.admin();
        admin.write(&path, &json!({"crl": list})).await.unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.node.tenant.path().join(name)
    }

    fn token_settings(&mut self) -> &mut Value {
        &mut self.node.config["auth"]["cert"]["pkcs11"]
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = self.node.program(arguments);
        command.env("SOFTHSM2_CONF", self.token.configuration());
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        self.program(arguments).output().unwrap().into()
    }

    async fn serve(&self) -> Provider {
        let mut provider = self.node.spawn_as(self.program(&["serve"]));
        provider.ready().await;
        provider
    }

    async fn refused(&self) -> Finished {
        self.node.spawn_as(self.program(&["serve"])).ended().await
    }

    async fn revoke_tokens(&self) {
        let path = format!("sys/leases/revoke-prefix/auth/{}", mount(&self.node));
        let admin = shared_openbao().await.admin();
        admin.write(&path, &json!({"sync": true})).await.unwrap();
    }
}

/// Mount of the login, without `auth/`.
fn mount(node: &Node) -> String {
    format!("cert-{}", node.tenant.transit_mount)
}

async fn wait_for_detail(provider: &Provider, detail: &str) {
    wait_until(SOON, detail, async || {
        let last = provider.events("auth.login").last();
        last.is_some_and(|login| login["detail"] == detail)
    })
    .await;
}

/// Processes below `process`, by their numbers.
fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(path).unwrap();
    children
        .split(' ')
        .filter_map(|it| it.parse().ok())
        .collect()
}

#[tokio::test]
async fn each_type_of_key_logs_in() {
    for key_type in [KeyType::P256, KeyType::P384, KeyType::Ed25519, KeyType::Rsa] {
        let at = TokenNode::with(QUIET, key_type, module()).await;
        let provider = at.serve().await;
        let encrypted = provider.encrypt(b"seed").await.unwrap();
        let decrypted = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
        assert_eq!(decrypted, &b"seed"[..], "{key_type:?}");
        let [helper] = children(provider.pid())[..] else {
            panic!("one helper");
        };
        wait_until(SOON, "the end of the worker", async || {
            children(helper).is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_token_is_renewed_and_replaced_at_its_maximum_life() {
    let mut at = TokenNode::new(TIMING).await;
    at.node.config["auth"]["loginBeforeTokenExpiry"] = json!("4s");
    at.node.config["auth"]["tokenRenewalIncrement"] = json!("8s");
    at.write_role("8s", "14s").await;
    let provider = at.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    wait_until(SOON, "a renewal", async || {
        provider.decrypt(request.clone()).await.unwrap();
        provider.metric(r#"auth_renewal_total{status="ok"}"#).await >= 1.0
    })
    .await;
    wait_until(SOON, "a login", async || {
        provider.decrypt(request.clone()).await.unwrap();
        provider.metric(r#"auth_login_total{status="ok"}"#).await >= 2.0
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_or_pin_needs_no_restart_after_a_bad_one() {
    let at = TokenNode::new(TIMING).await;
    let provider = at.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    at.revoke(1).await;
    // The token outlives its certificate.
    provider.decrypt(request.clone()).await.unwrap();
    at.revoke_tokens().await;
    let refused = provider.decrypt(request.clone()).await.unwrap_err();
    let said = "OpenBao rejects the login; no data is lost";
    assert_decrypt_refused(&refused, "transit authentication failed", said);

    at.write_certificate(&at.certificate(2));
    wait_until(SOON, "the new certificate", async || {
        provider.decrypt(request.clone()).await.is_ok()
    })
    .await;

    // An expired one is not presented.
    let mut expired = at.certificate(3);
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    at.write_certificate(&expired);
    at.revoke_tokens().await;
    let refused = provider.decrypt(request.clone()).await.unwrap_err();
    let said =
        "this node's certificate or token for the login has ended or ends soon; no data is lost";
    assert_decrypt_refused(&refused, "transit authentication failed", said);
    wait_for_detail(&provider, "expired").await;
    assert!(
        provider
            .metric(r#"auth_login_total{status="cert_expired"}"#)
            .await
            >= 1.0
    );
    at.write_certificate(&at.certificate(4));
    wait_until(SOON, "the next certificate", async || {
        provider.decrypt(request.clone()).await.is_ok()
    })
    .await;

    at.write_pin("wrong");
    at.revoke_tokens().await;
    wait_for_detail(&provider, "pin_known_wrong").await;
    let tries = provider.events("auth.login");
    assert_eq!(tries.filter(|it| it["detail"] == "pin_wrong").count(), 1);
    at.write_pin(PIN);
    wait_until(SOON, "the right PIN", async || {
        provider.decrypt(request.clone()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_token_that_was_removed_serves_again_when_it_is_back() {
    let at = TokenNode::new(TIMING).await;
    let provider = at.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    at.token.remove();
    // Calls need no signature.
    provider.decrypt(request.clone()).await.unwrap();
    at.revoke_tokens().await;
    let refused = provider.decrypt(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let said = "this node's PKCS#11 token cannot be used; no data is lost";
    assert_decrypt_refused(&refused, "transit authentication failed", said);
    wait_for_detail(&provider, "token_absent").await;
    let report = at.run(&["doctor"]);
    report.assert_told(4, &["no token has this label", "--list-token-slots"]);

    at.token.put_back();
    wait_until(SOON, "the token", async || {
        provider.decrypt(request.clone()).await.is_ok()
    })
    .await;
    at.run(&["doctor"]).assert_told(0, &[]);
}

#[tokio::test]
async fn a_module_that_hangs_or_crashes_harms_no_call_and_needs_no_restart() {
    if !geteuid().is_root() {
        return;
    }
    let faulty = FaultyModule::new();
    let mut at = TokenNode::with(TIMING, KeyType::P256, faulty.path()).await;
    at.node.config["auth"]["loginTimeout"] = json!("4s");
    let provider = at.serve().await;
    let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
    for (call, fault, detail) in [
        ("C_Initialize", "hang", "module_hangs"),
        ("C_Login", "crash", "module_crashed"),
        ("C_Sign", "hang", "module_hangs"),
        ("C_Initialize", "0x30", "module_failed"),
    ] {
        faulty.set(call, fault);
        // Calls need no signature.
        let began = Instant::now();
        provider.decrypt(request.clone()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
        at.revoke_tokens().await;
        provider.decrypt(request.clone()).await.unwrap_err();
        wait_for_detail(&provider, detail).await;
        let (live, _) = provider.health("/live").await;
        assert_eq!(live, 200);
        faulty.heal();
        wait_until(SOON, "the module", async || {
            provider.decrypt(request.clone()).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn what_cannot_work_is_named_at_the_start() {
    let mut at = TokenNode::new(IMPATIENT).await;
    let settings = at.token_settings().clone();
    for (setting, value, said) in [
        ("tokenLabel", json!("other"), "no token has this label"),
        ("keyLabel", json!("other"), "no private key with this label"),
    ] {
        at.token_settings()[setting] = value;
        at.refused()
            .await
            .assert_refused(5, &[said, "login failed"]);
        at.token_settings().clone_from(&settings);
    }

    at.write_pin("wrong");
    at.refused()
        .await
        .assert_refused(5, &["rejected the PIN", "no data was changed"]);
    at.write_pin(PIN);

    let mut near = at.certificate(1);
    near.not_after = date_time_ymd(2030, 1, 1);
    at.write_certificate(&near);
    at.node.config["auth"]["cert"]["minRemainingTtl"] = json!("90000h");
    at.refused()
        .await
        .assert_refused(5, &["expires in", "324000000 s are required"]);
    at.node.config["auth"]["cert"]["minRemainingTtl"] = json!("1h");

    let other = TokenNode::new(IMPATIENT).await;
    fs::copy(other.file("chain.pem"), at.file("chain.pem")).unwrap();
    at.refused()
        .await
        .assert_refused(5, &["belongs to another certificate"]);

    files::replace(&at.file("pin"), PIN.as_bytes(), 0o644);
    at.refused()
        .await
        .assert_refused(3, &["auth.cert.pkcs11.pinFile"]);
    at.write_pin(PIN);
    at.token_settings()["modulePath"] = json!("/nonexistent.so");
    at.refused()
        .await
        .assert_refused(3, &["auth.cert.pkcs11.modulePath"]);
}

#[tokio::test]
async fn the_pin_is_nowhere_and_the_sandbox_is_as_with_a_jwt() {
    let at = TokenNode::new(TIMING).await;
    let provider = at.serve().await;
    let jwt_node = Node::new(TIMING).await;
    let with_jwt = jwt_node.serve().await;
    let hardened = |provider: &Provider| provider.events("process.hardened").next().unwrap();
    let (own, other) = (hardened(&provider), hardened(&with_jwt));
    assert_eq!(own["landlock"], other["landlock"]);

    let mut said = vec![provider.metrics().await, provider.log(), provider.out()];
    said.extend(provider.process_files());
    for path in ["/live", "/ready"] {
        said.push(provider.health(path).await.1.to_string());
    }
    for helper in children(provider.pid()) {
        for file in ["cmdline", "environ"] {
            // Closed even to its own user, except to root.
            let content = fs::read(format!("/proc/{helper}/{file}"));
            said.extend(content.map(|content| String::from_utf8_lossy(&content).into_owned()));
        }
    }
    at.write_pin("MARKER-wrong-pin-0123456789");
    at.revoke_tokens().await;
    wait_for_detail(&provider, "pin_known_wrong").await;
    for command in [&["config"][..], &["doctor"], &["triage"]] {
        let finished = at.run(command);
        said.extend([finished.out, finished.err]);
    }
    said.push(provider.log());
    files_below(&at.node.state_dir(), &mut said);

    // Only a process without a sandbox can start another helper.
    let [helper] = children(provider.pid())[..] else {
        panic!("one helper");
    };
    let helper = Pid::from_raw(helper.try_into().unwrap()).unwrap();
    kill_process(helper, Signal::KILL).unwrap();
    if own["landlock"] == "refused" {
        at.write_pin(PIN);
        wait_until(SOON, "another helper", async || {
            provider.encrypt(b"seed").await.is_ok()
        })
        .await;
    } else {
        wait_for_detail(&provider, "helper_gone").await;
    }
    for secret in [PIN, "MARKER-wrong-pin-0123456789"] {
        for form in spellings(secret.as_bytes()) {
            assert!(!said.iter().any(|text| text.contains(&form)), "{form}");
        }
    }
}
