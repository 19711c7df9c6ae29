//! Tests of this crate against a real OpenBao.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openbao_client::{failure::FailureClass, token::Token};
use openbao_lab::{
    admin::{Admin, AdminError, transit::KeyConfig},
    confinement,
    server::{
        Audit, Installation, Server, UnsealKey,
        restore::{RestoreError, StaticSeal},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    files,
    openbao::{OpenBao, binary, shared_openbao},
    tenant::{KEY, ROLE, Tenant},
    wait::wait_until,
};
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(30);

fn class(error: AdminError) -> FailureClass {
    match error {
        AdminError::Call { source, .. } => source.class(),
        AdminError::Client(error) => panic!("{error}"),
    }
}

async fn login(server: &OpenBao, tenant: &Tenant, claims: &Value) -> Result<Value, AdminError> {
    let anyone = Admin::new(server.endpoint(), None).unwrap();
    let path = format!("auth/{}/login", tenant.jwt_mount);
    let credentials = json!({"role": ROLE, "jwt": *tenant.jwt(claims)});
    let answer = anyone.write(&path, &credentials).await?;
    Ok(answer.json().unwrap())
}

#[tokio::test]
async fn data_survives_a_restart_and_needs_the_unseal_key() {
    let server = OpenBao::start().await;
    server
        .admin()
        .write_policy("kept", "path \"a\" {}")
        .await
        .unwrap();
    let address = server.endpoint().address;

    let mut server = server.stop().await.start_sealed().await;
    assert_eq!(server.endpoint().address, address);
    let kept = "sys/policies/acl/kept";
    let refused = server.admin().read(kept).await.err().unwrap();
    assert_eq!(class(refused), FailureClass::Sealed);
    server.unseal().await;
    server.admin().read(kept).await.unwrap();

    server.seal().await;
    let refused = server.admin().read(kept).await.err().unwrap();
    assert_eq!(class(refused), FailureClass::Sealed);
    server.unseal().await;
    server.admin().read(kept).await.unwrap();
}

#[tokio::test]
async fn a_jwt_logs_in_with_its_audience_alone() {
    let server = shared_openbao().await;
    let tenant = Tenant::new(server).await;
    let mut claims = tenant.claims();
    let answer = login(server, &tenant, &claims).await.unwrap();
    assert_eq!(answer["auth"]["token_policies"], json!([tenant.policy]));
    assert_eq!(answer["auth"]["lease_duration"], 1800);
    assert_eq!(answer["auth"]["renewable"], true);

    claims["aud"] = json!(["another"]);
    let refused = login(server, &tenant, &claims).await.err().unwrap();
    assert!(
        refused.to_string().contains("invalid audience"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_key_is_rotated_restricted_trimmed_and_deleted() {
    let server = shared_openbao().await;
    let tenant = Tenant::new(server).await;
    let admin = server.admin();
    let mount = &tenant.transit_mount;
    for _ in 0..2 {
        admin.rotate_key(mount, KEY).await.unwrap();
    }
    let config = KeyConfig {
        min_decryption_version: Some(2),
        min_encryption_version: Some(3),
        deletion_allowed: Some(true),
        ..KeyConfig::default()
    };
    admin.configure_key(mount, KEY, config).await.unwrap();
    admin.trim_key(mount, KEY, 2).await.unwrap();

    let path = format!("{mount}/keys/{KEY}");
    let key: Value = admin.read(&path).await.unwrap().data().unwrap();
    assert_eq!(key["latest_version"], 3);
    assert_eq!(key["min_decryption_version"], 2);
    assert_eq!(key["min_encryption_version"], 3);
    assert_eq!(key["min_available_version"], 2);
    assert_eq!(key["exportable"], false);

    admin.delete_key(mount, KEY).await.unwrap();
    let missing = admin.read(&path).await.err().unwrap();
    assert_eq!(class(missing), FailureClass::NotFound);

    // Without `disable_upsert`, encryption would create the key again.
    let path = format!("{mount}/encrypt/{KEY}");
    let refused = admin.write(&path, &json!({"plaintext": ""})).await;
    assert_eq!(class(refused.err().unwrap()), FailureClass::KeyMissing);
}

#[tokio::test]
async fn a_snapshot_brings_data_and_unseal_key_to_another_server() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("raft.snap");
    let original = start(&directory.path().join("original")).await;
    let original_secrets = original.initialize().await.unwrap();
    original.unseal(&original_secrets.unseal_key).await.unwrap();
    let admin = original.admin(&original_secrets.root_token).unwrap();
    admin.write_policy("kept", "path \"a\" {}").await.unwrap();
    original
        .save_snapshot(&original_secrets.root_token, &file)
        .await
        .unwrap();
    drop(original);

    let copy = start(&directory.path().join("copy")).await;
    let secrets = copy.initialize().await.unwrap();
    copy.unseal(&secrets.unseal_key).await.unwrap();
    copy.restore_snapshot(&secrets.root_token, &file)
        .await
        .unwrap();
    copy.unseal(&original_secrets.unseal_key).await.unwrap();
    let admin = copy.admin(&original_secrets.root_token).unwrap();
    admin.read("sys/policies/acl/kept").await.unwrap();
}

/// Initializes a server with `shares` and `threshold`, and unseals it.
async fn initialize(server: &Server, shares: usize, threshold: usize) -> (Token, Vec<UnsealKey>) {
    let anyone = Admin::new(server.endpoint(), None).unwrap();
    let wanted = json!({"secret_shares": shares, "secret_threshold": threshold});
    let answer: Value = anyone
        .write("sys/init", &wanted)
        .await
        .unwrap()
        .json()
        .unwrap();
    let text = |value: &Value| Zeroizing::new(value.as_str().unwrap().to_owned());
    let keys = answer["keys_base64"].as_array().unwrap().iter();
    let keys: Vec<_> = keys.map(|key| UnsealKey::new(text(key))).collect();
    server.unseal_with(&keys).await.unwrap();
    (Token::new(text(&answer["root_token"])).unwrap(), keys)
}

#[tokio::test]
async fn a_copy_needs_a_quorum_of_its_own_shares_and_leaves_the_audit_log_alone() {
    let place = TempDir::new().unwrap();
    let file = place.path().join("raft.snap");
    let installation =
        Installation::prepare(binary(), &place.path().join("original"), Audit::File).unwrap();
    let original = installation.start().await.unwrap();
    let (root_token, mut shares) = initialize(&original, 3, 2).await;
    let admin = original.admin(&root_token).unwrap();
    admin.write_policy("kept", "path \"a\" {}").await.unwrap();
    original.save_snapshot(&root_token, &file).await.unwrap();
    let audit_log = original.audit_log();
    let _stopped = original.stop().await.unwrap();
    let audited = || {
        let facts = fs::metadata(&audit_log).unwrap();
        (facts.len(), facts.modified().unwrap())
    };
    let before = audited();

    confinement::trial().unwrap();
    let take_over = async |name: &str| {
        let directory = place.path().join(name);
        let installation = Installation::prepare_copy(binary(), &directory, true).unwrap();
        installation.take_over(&file).await.unwrap()
    };
    let few = take_over("few").await.silence(None, &shares[..1]).await;
    let few = few.err().unwrap().to_string();
    assert_eq!(few, "this snapshot needs 2 different key shares; 1 given");
    let silenced = take_over("copy").await.silence(None, &shares[1..]).await;
    let silenced = silenced.unwrap();
    assert_eq!(silenced.audit_devices, 1);
    let copy = silenced.open(&shares[1..]).await.unwrap();
    let admin = copy.server.admin(&copy.root_token).unwrap();
    admin.read("sys/policies/acl/kept").await.unwrap();
    let audit: Value = admin.read("sys/audit").await.unwrap().data().unwrap();
    assert_eq!(audit, json!({}));
    let members: Value = admin
        .read("sys/storage/raft/configuration")
        .await
        .unwrap()
        .data()
        .unwrap();
    let members = members["config"]["servers"].as_array().unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(audited(), before);

    let wrong = STANDARD.encode([7; 33]);
    shares.truncate(1);
    shares.push(UnsealKey::new(Zeroizing::new(wrong)));
    let wrong = take_over("wrong").await.silence(None, &shares).await;
    assert!(matches!(wrong.err(), Some(RestoreError::WrongShares)));
}

#[tokio::test]
async fn a_copy_of_a_server_that_unseals_itself_needs_its_key_and_recovery_shares() {
    let place = TempDir::new().unwrap();
    let file = place.path().join("raft.snap");
    let key_file = place.path().join("seal.key");
    files::replace(&key_file, &[9; 32], 0o600);
    let seal = StaticSeal {
        key_id: "one".to_owned(),
        key_file,
    };
    let directory = place.path().join("original");
    let installation = Installation::prepare(binary(), &directory, Audit::File).unwrap();
    let installation = installation.sealed_by(seal.clone());
    let original = installation.start().await.unwrap();
    let anyone = Admin::new(original.endpoint(), None).unwrap();
    let wanted = json!({"recovery_shares": 3, "recovery_threshold": 2});
    let answer = anyone.write("sys/init", &wanted).await.unwrap();
    let answer: Value = answer.json().unwrap();
    let text = |value: &Value| Zeroizing::new(value.as_str().unwrap().to_owned());
    let shares = answer["recovery_keys_base64"].as_array().unwrap().iter();
    let shares: Vec<_> = shares.map(|key| UnsealKey::new(text(key))).collect();
    let root_token = Token::new(text(&answer["root_token"])).unwrap();
    let admin = original.admin(&root_token).unwrap();
    wait_until(SOON, "the original", async || {
        admin.read("sys/health").await.is_ok()
    })
    .await;
    admin.write_policy("kept", "path \"a\" {}").await.unwrap();
    original.save_snapshot(&root_token, &file).await.unwrap();
    let _stopped = original.stop().await.unwrap();

    let take_over = async |name: &str| {
        let directory = place.path().join(name);
        let installation = Installation::prepare_copy(binary(), &directory, true).unwrap();
        installation.take_over(&file).await.unwrap()
    };
    let keyless = take_over("keyless").await.silence(None, &shares).await;
    let keyless = keyless.err().unwrap().to_string();
    assert!(keyless.contains("has another seal type than unseal key shares"));
    let other = StaticSeal {
        key_id: "two".to_owned(),
        ..seal.clone()
    };
    let other = take_over("other").await.silence(Some(other), &shares).await;
    assert!(matches!(other.err(), Some(RestoreError::WrongShares)));
    let silenced = take_over("copy").await.silence(Some(seal), &shares).await;
    let copy = silenced.unwrap().open(&shares).await.unwrap();
    let admin = copy.server.admin(&copy.root_token).unwrap();
    admin.read("sys/policies/acl/kept").await.unwrap();
    copy.close().await.unwrap();
}

async fn start(directory: &Path) -> Server {
    let installation = Installation::prepare(binary(), directory, Audit::Off).unwrap();
    installation.start().await.unwrap()
}

/// Runs itself again as the parent process to kill, selected by an environment variable.
#[tokio::test]
async fn the_server_dies_when_its_parent_is_killed() {
    const DIRECTORY: &str = "OPENBAO_LAB_TEST_DIRECTORY";
    if let Some(directory) = env::var_os(DIRECTORY) {
        let _server = start(Path::new(&directory)).await;
        fs::create_dir(Path::new(&directory).join("started")).unwrap();
        return std::future::pending().await;
    }
    let directory = TempDir::new().unwrap();
    let mut parent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_server_dies_when_its_parent_is_killed"])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = directory.path().join("started");
    wait_until(SOON, "the server's start", async || started.exists()).await;
    // The server and its two guarding shells.
    assert_eq!(processes(directory.path()), 3);

    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until(SOON, "the end of the server and its guard", async || {
        processes(directory.path()) == 0
    })
    .await;
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_why() {
    let directory = TempDir::new().unwrap();
    let installation = Installation::prepare(binary(), directory.path(), Audit::Off).unwrap();
    fs::remove_file(directory.path().join("server.key")).unwrap();
    let error = installation.start().await.err().unwrap().to_string();
    assert!(error.contains("server.key"), "{error}");
    wait_until(SOON, "the end of the guard", async || {
        processes(directory.path()) == 0
    })
    .await;
}

/// Number of processes with the directory in their arguments.
fn processes(directory: &Path) -> usize {
    let directory = directory.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
        .filter(|arguments| String::from_utf8_lossy(arguments).contains(directory))
        .count()
}

#[tokio::test]
async fn three_servers_are_a_cluster_that_outlives_the_loss_of_its_leader() {
    let [first, second, third] = OpenBao::start_cluster().await;
    assert!(first.is_active().await);
    first
        .admin()
        .write_policy("kept", "path \"a\" {}")
        .await
        .unwrap();
    let first = first.kill();
    wait_until(SOON, "a new leader", async || {
        second.is_active().await || third.is_active().await
    })
    .await;
    let kept = third.admin().read("sys/policies/acl/kept").await.unwrap();
    assert_eq!(
        kept.data::<Value>().unwrap()["policy"],
        "path \"a\" {}",
        "a standby passes calls on"
    );

    let mut first = first.start_sealed().await;
    first.unseal_member().await;
    let leader = if second.is_active().await {
        &second
    } else {
        &third
    };
    leader.step_down().await;
    wait_until(SOON, "another leader", async || {
        !leader.is_active().await
            && (first.is_active().await || second.is_active().await || third.is_active().await)
    })
    .await;
}
