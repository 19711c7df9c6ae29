//! The package for Debian.

use std::process::Command;

use crate::{
    artifact,
    root::{LISTING, RELOADED, Root, STOPPED, USED, assert_installed},
    succeed,
};

const FILE: &str = "linux_ARCH.deb";

/// A package of another program with the same name, or of the build with PKCS#11, and the same
/// paths.
const FOREIGN: &str = r#"
set -e
make() {
    mkdir -p /tmp/foreign/DEBIAN /tmp/foreign/usr/bin /tmp/foreign/usr/lib/systemd/system
    printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <a@b.invalid>\nDescription: foreign\n' \
        "$1" "$2" >/tmp/foreign/DEBIAN/control
    echo foreign >/tmp/foreign/usr/bin/bao-kms-provider
    echo foreign >/tmp/foreign/usr/lib/systemd/system/bao-kms-provider.service
    dpkg-deb --build /tmp/foreign /tmp/foreign.deb
    dpkg --install /tmp/foreign.deb
}
make "#;

#[test]
fn a_deb_prepares_the_host_and_starts_nothing() {
    let root = Root::new();
    let deb = root.bring(&artifact(FILE));
    let messages = root.ok(&format!("dpkg --install {deb}"));
    assert_eq!(root.systemctl(), RELOADED);
    assert!(messages.contains("config.yaml is missing"), "{messages}");
    assert_installed(&root);
    let damaged = root.ok("dpkg --verify bao-kms-provider");
    assert_eq!(damaged, "");
}

#[test]
fn configuration_and_state_survive_upgrade_removal_and_purge_of_a_deb() {
    let root = Root::new();
    let deb = root.bring(&artifact(FILE));
    root.ok(&format!("dpkg --install {deb}"));
    root.ok(USED);
    root.ok("touch /is-active");
    let before = root.ok(LISTING);
    root.systemctl();

    // A newer release, while the provider runs.
    let messages = root.ok(&format!(
        "dpkg-deb --raw-extract {deb} /tmp/newer \
         && sed -i 's/^Version: .*/&+1/' /tmp/newer/DEBIAN/control \
         && dpkg-deb --build -z1 /tmp/newer /tmp/newer.deb && dpkg --install /tmp/newer.deb"
    ));
    assert!(
        messages.contains("restart one node at a time"),
        "{messages}"
    );
    assert!(!messages.contains("config.yaml is missing"), "{messages}");
    assert_eq!(root.ok(LISTING), before);
    let calls = root.systemctl();
    assert!(calls.iter().all(|call| !call.contains("stop")), "{calls:?}");

    let messages = root.ok("dpkg --remove bao-kms-provider");
    assert_eq!(root.ok(LISTING), before);
    assert_eq!(root.systemctl(), STOPPED);
    for directory in ["/etc/openbao-kms", "/var/lib/openbao-kms"] {
        let kept = format!("{directory} remains");
        assert!(messages.contains(&kept), "{messages}");
    }
    root.ok("test ! -e /usr/bin/bao-kms-provider && test ! -e /usr/share/bao-kms-provider");

    root.ok("dpkg --purge bao-kms-provider");
    assert_eq!(root.ok(LISTING), before);

    // And the next installation finds all of it.
    root.ok(&format!("dpkg --install {deb}"));
    assert_eq!(root.ok(LISTING), before);
}

#[test]
fn a_deb_takes_the_place_of_the_reference_program() {
    let root = Root::new();
    let deb = root.bring(&artifact(FILE));
    for (name, version) in [
        ("bao-kms-provider", "0.1.0~preview.3"),
        ("bao-kms-provider-certauth-pkcs11", "0.9.0"),
    ] {
        root.ok(&format!("{FOREIGN} {name} {version}"));
        root.ok(&format!("dpkg --auto-deconfigure --install {deb}"));
        root.ok("dpkg --verify bao-kms-provider && bao-kms-provider version");
        let packages = root.ok("dpkg-query --show --showformat '${binary:Package} ${db:Status-Status}\\n' 'bao-kms-provider*' | grep ' installed$'");
        assert_eq!(packages, "bao-kms-provider installed\n");
        root.ok("dpkg --purge bao-kms-provider");
    }
}

/// With another group of the socket, and another socket.
#[test]
fn systemd_accepts_the_drop_ins_of_init() {
    let root = Root::new();
    let deb = root.bring(&artifact(FILE));
    root.ok(&format!("dpkg --install {deb}"));
    root.ok("cd /root && bao-kms-provider init --cluster east \
            --openbao-address https://openbao.test:8200 --set auth.method=approle --new-key \
            --set server.socketGroup=4242 \
            --set server.socketPath=/run/openbao-kms/east/kms.sock --out made \
        && touch ca secret \
        && bao-kms-provider node prepare made --ca ca --credential secret --apply");
    let verified = root.ok("cd /usr/lib/systemd/system \
        && systemd-analyze verify bao-kms-provider.service bao-kms-provider.socket 2>&1 \
        | grep bao-kms || true");
    assert_eq!(verified, "");
    let drop_ins = root.ok("cat /etc/systemd/system/bao-kms-provider.*.d/installation.conf");
    assert!(
        drop_ins.contains("SupplementaryGroups=4242\n"),
        "{drop_ins}"
    );
    assert!(drop_ins.contains("SocketGroup=4242\n"), "{drop_ins}");

    root.ok("bao-kms-provider node remove /root/made --apply");
    root.ok("! ls -d /etc/systemd/system/bao-kms-provider.*.d");
}

#[test]
fn lintian_accepts_the_deb() {
    let deb = artifact(FILE);
    let found = succeed(
        Command::new("lintian")
            .args(["--allow-root", "--fail-on", "error,warning"])
            .arg(deb),
    );
    assert_eq!(found, "");
}
