//! A machine of its own for packages. `systemctl` there only records its calls, as with a running
//! systemd.

use std::{fs, path::Path, process::Output};

use testkit::{files, fresh_root::FreshRoot};

use crate::said;

const RECORD: &str = "\
#!/bin/sh
echo \"$*\" >>/systemctl-calls
[ \"$2\" != is-active ] || [ -e /is-active ]
";

/// Drop ends all changes.
pub(crate) struct Root(FreshRoot);

impl Root {
    pub(crate) fn new() -> Self {
        let root = Self(FreshRoot::new(&[]));
        files::replace(&root.0.path("/systemctl"), RECORD.as_bytes(), 0o755);
        root.ok("mkdir -p /run/systemd/system && mv -f /systemctl /bin/systemctl");
        root
    }

    /// Runs a shell command in the root.
    pub(crate) fn run(&self, command: &str) -> Output {
        self.0.run(command)
    }

    /// Both streams of a successful command.
    #[track_caller]
    pub(crate) fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command}: {}", said(&output));
        said(&output)
    }

    /// Copies a file of this machine to `/tmp`.
    pub(crate) fn bring(&self, file: &Path) -> String {
        let name = file.file_name().unwrap().to_str().unwrap();
        let to = format!("/tmp/{name}");
        fs::copy(file, self.0.path(&to)).unwrap();
        to
    }

    /// The calls of systemctl since the last time.
    pub(crate) fn systemctl(&self) -> Vec<String> {
        let calls = self.ok("cat /systemctl-calls 2>/dev/null; rm -f /systemctl-calls");
        calls.lines().map(str::to_owned).collect()
    }
}

/// An installed node: configuration, credential and state, and their listing.
pub(crate) const USED: &str = "
set -e
echo 'a: b' >/etc/openbao-kms/config.yaml
mkdir -p /etc/openbao-kms/east
echo ca >/etc/openbao-kms/tls/ca.crt
echo registry >/var/lib/openbao-kms/state/key-registry.json
echo checkpoint >/var/lib/openbao-kms/state/key-registry.checkpoint.json
echo token >/var/lib/openbao-kms/identity.jwt
chown root:openbao-kms /etc/openbao-kms/config.yaml /var/lib/openbao-kms/identity.jwt
chown -R openbao-kms:openbao-kms /var/lib/openbao-kms/state
chmod 640 /etc/openbao-kms/config.yaml /var/lib/openbao-kms/identity.jwt
";
pub(crate) const LISTING: &str = "
find /etc/openbao-kms /var/lib/openbao-kms -printf '%M %u:%g %s %t %p\\n' | sort
find /etc/openbao-kms /var/lib/openbao-kms -type f -exec sha256sum {} + | sort
";

/// The calls of a first installation: nothing is enabled or started.
pub(crate) const RELOADED: [&str; 2] = [
    "daemon-reload",
    "--quiet is-active bao-kms-provider.service bao-kms-provider@*.service",
];

/// Asserts that an installation has every file, owner and mode.
pub(crate) fn assert_installed(root: &Root) {
    let listed = root.ok("stat -c '%a %U:%G %n' \
        /usr/bin/bao-kms-provider /usr/lib/systemd/system/bao-kms-provider* \
        /usr/lib/sysusers.d/bao-kms-provider.conf /usr/lib/tmpfiles.d/bao-kms-provider.conf \
        /etc/openbao-kms /etc/openbao-kms/tls /var/lib/openbao-kms /var/lib/openbao-kms/state \
        /run/openbao-kms /usr/share/bao-kms-provider/*/*");
    assert_eq!(
        listed,
        "\
755 root:root /usr/bin/bao-kms-provider
644 root:root /usr/lib/systemd/system/bao-kms-provider.service
644 root:root /usr/lib/systemd/system/bao-kms-provider.socket
644 root:root /usr/lib/systemd/system/bao-kms-provider@.service
644 root:root /usr/lib/systemd/system/bao-kms-provider@.socket
644 root:root /usr/lib/sysusers.d/bao-kms-provider.conf
644 root:root /usr/lib/tmpfiles.d/bao-kms-provider.conf
750 root:openbao-kms /etc/openbao-kms
755 root:root /etc/openbao-kms/tls
750 openbao-kms:openbao-kms /var/lib/openbao-kms
750 openbao-kms:openbao-kms /var/lib/openbao-kms/state
2750 openbao-kms:openbao-kms-socket /run/openbao-kms
644 root:root /usr/share/bao-kms-provider/drill/bao-kms-drill.service
644 root:root /usr/share/bao-kms-provider/drill/bao-kms-drill.timer
755 root:root /usr/share/bao-kms-provider/drill/sysusers.d
644 root:root /usr/share/bao-kms-provider/grafana/bao-kms-provider.json
644 root:root /usr/share/bao-kms-provider/prometheus/bao-kms-provider.rules.yaml
644 root:root /usr/share/bao-kms-provider/systemd/systemd-254.conf
"
    );
    let user = root.ok("id -nG openbao-kms; getent passwd openbao-kms | cut -d: -f6,7");
    assert_eq!(
        user,
        "openbao-kms openbao-kms-socket\n/var/lib/openbao-kms:/usr/sbin/nologin\n"
    );

    // The manual pages exist as well: the units name them.
    let verified = root.ok("cd /usr/lib/systemd/system && systemd-analyze verify \
        bao-kms-provider.service bao-kms-provider.socket \
        bao-kms-provider@east.service bao-kms-provider@east.socket 2>&1 | grep bao-kms || true");
    assert_eq!(verified, "");
    let version = root.ok("bao-kms-provider version");
    assert!(version.starts_with("version: v"), "{version}");
    root.ok("man -w bao-kms-provider-verify-backup \
        && bash -n /usr/share/bash-completion/completions/bao-kms-provider \
        && test -e /usr/share/fish/vendor_completions.d/bao-kms-provider.fish \
        && test -e /usr/share/doc/bao-kms-provider/docs/operate/disaster-recovery/README.md");
}

/// The calls of a removal.
pub(crate) const STOPPED: [&str; 6] = [
    "--quiet disable bao-kms-provider.socket",
    "--quiet disable bao-kms-provider.service",
    "--quiet disable bao-kms-provider@.socket",
    "--quiet disable bao-kms-provider@.service",
    "stop bao-kms-provider.socket bao-kms-provider.service bao-kms-provider@*.socket bao-kms-provider@*.service",
    "daemon-reload",
];
