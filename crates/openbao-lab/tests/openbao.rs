//! A real OpenBao, started and set up by this crate.

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

use openbao_client::failure::FailureClass;
use openbao_lab::{
    admin::{Admin, AdminError, transit::KeyConfig},
    server::{Audit, Installation, Server},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    openbao::{OpenBao, binary, shared_openbao},
    tenant::{KEY, ROLE, Tenant},
    wait::wait_until,
};

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

    // Without the mount's setting, encryption would make the key anew.
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

async fn start(directory: &Path) -> Server {
    let installation = Installation::prepare(binary(), directory, Audit::Off).unwrap();
    installation.start().await.unwrap()
}

/// Runs itself again as the parent that is killed, told so by the environment.
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
    // The server and the two shells that guard it.
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

/// How many processes name the directory in their arguments.
fn processes(directory: &Path) -> usize {
    let directory = directory.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
        .filter(|arguments| String::from_utf8_lossy(arguments).contains(directory))
        .count()
}
