//! A real OpenBao, started and set up by this crate.

use std::path::Path;

use openbao_lab::{
    binary::{TOOLS_PATH, find_bao},
    server::{Audit, Installation, Server},
};
use tempfile::TempDir;

fn installation(directory: &TempDir) -> Installation {
    let in_workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(TOOLS_PATH);
    let binary = find_bao(None)
        .or_else(|not_found| find_bao(Some(&in_workspace)).map_err(|_| not_found))
        .unwrap();
    Installation::prepare(binary, directory.path(), Audit::File).unwrap()
}

async fn start(directory: &TempDir) -> Server {
    installation(directory).start().await.unwrap()
}

#[tokio::test]
async fn data_survives_a_restart_and_needs_the_unseal_key() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory).await;
    let secrets = server.initialize().await.unwrap();
    server.unseal(&secrets.unseal_key).await.unwrap();
    let policy = serde_json::json!({"policy": "path \"a\" { capabilities = [\"read\"] }"});
    let admin = server.admin(&secrets.root_token).unwrap();
    admin.write("sys/policies/acl/kept", &policy).await.unwrap();

    let stopped = server.stop().await.unwrap();
    let server = stopped.start().await.unwrap();
    let admin = server.admin(&secrets.root_token).unwrap();
    admin.read("sys/policies/acl/kept").await.err().unwrap();
    server.unseal(&secrets.unseal_key).await.unwrap();
    admin.read("sys/policies/acl/kept").await.unwrap();
}
