//! Files of a backup set that are damaged, packed or something else.

use std::fs;

use testkit::{files, openbao::shared_openbao};

use super::site::Site;

pub(super) async fn an_etcd_snapshot_that_proves_too_little() {
    let mut site = Site::new().await;
    site.serve().await;
    site.store("secrets/default/one").await;
    let file = site.snapshot("etcd.db");
    let sound = fs::read(&file).unwrap();
    site.choose("snapshot save FILE", format!("snapshot save {file}"));
    let scan = site.line(&format!("scan-etcd --etcd-snapshot {file}"));
    let page = 4096;
    for (code, bytes) in [
        ("snapshot_damaged", {
            let mut damaged = sound.clone();
            damaged[sound.len() / 2] ^= 1;
            damaged
        }),
        ("source_unverified", sound[..sound.len() - 32].to_vec()),
        ("snapshot_damaged", {
            // The hash would tell first.
            let mut damaged = sound[..sound.len() - 32].to_vec();
            damaged[page..2 * page].fill(0);
            damaged
        }),
    ] {
        files::replace(file.as_ref(), &bytes, 0o600);
        site.fixes(&scan, code).await;
    }
    let packed = site.shell("xz -k etcd.db").await;
    assert_eq!(packed.code, Some(0), "{}", packed.err);
    fs::remove_file(&file).unwrap();
    let packed = site.line(&format!("scan-etcd --etcd-snapshot {file}.xz"));
    site.follows(&packed, "not_a_snapshot").await;
    site.clears(&scan, "not_a_snapshot").await;
}

pub(super) async fn an_openbao_snapshot_that_proves_too_little() {
    let mut site = Site::new().await;
    site.serve().await;
    let file = site.file("openbao.snap");
    shared_openbao().await.save_snapshot(&file).await;
    let sound = fs::read(&file).unwrap();
    let file = file.display().to_string();
    site.choose(" FILE", format!(" {file}"));
    let out = site.file("record.json").display().to_string();
    let record = site.line(&format!(
        "record-backup --openbao-snapshot {file} --out {out}"
    ));
    let unsigned = "mkdir parts && tar -xzf openbao.snap -C parts && rm parts/SHA256SUMS.sealed && \
                    tar -czf unsigned.snap -C parts meta.json state.bin SHA256SUMS";
    let unsigned = site.shell(unsigned).await;
    assert_eq!(unsigned.code, Some(0), "{}", unsigned.err);
    for (code, bytes) in [
        ("not_an_openbao_snapshot", b"a text\n".to_vec()),
        (
            "openbao_snapshot_damaged",
            sound[..sound.len() / 2].to_vec(),
        ),
        (
            "openbao_snapshot_unsigned",
            fs::read(site.file("unsigned.snap")).unwrap(),
        ),
    ] {
        files::replace(file.as_ref(), &bytes, 0o600);
        fs::remove_file(&out).ok();
        site.follows(&record, code).await;
        fs::remove_file(&out).ok();
        site.clears(&record, code).await;
    }
}

pub(super) async fn backups_that_are_too_old() {
    let mut site = Site::new().await;
    site.serve().await;
    site.store("secrets/default/one").await;
    let file = site.snapshot("etcd.db");
    let openbao = site.file("openbao.snap");
    shared_openbao().await.save_snapshot(&openbao).await;
    shared_openbao().await.write_unseal_key(&site.file("share"));
    let old = site
        .shell("touch --date '3 days ago' etcd.db && mkdir work")
        .await;
    assert_eq!(old.code, Some(0), "{}", old.err);
    site.choose(" FILE", format!(" {}", openbao.display()));
    site.choose(
        "etcdctl snapshot save FILE",
        format!("etcdctl snapshot save {file}"),
    );
    let drill = site.line(
        "drill --max-age 26h --etcd-snapshot etcd.db --openbao-snapshot openbao.snap \
         --unseal-key-file share --work-dir work --bao bin/bao --allow-network",
    );
    site.fixes(&drill, "backups_outdated").await;
}
