//! A root of its own: this machine's system, read-only below a layer in memory.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::said;

/// Mounts the layer in a mount namespace, and keeps it until standard input ends. `systemctl` there
/// only records its calls, as with a running systemd.
const MOUNT: &str = r#"set -e
mount -t tmpfs -o mode=0755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mount --rbind /proc root/proc
mount --rbind /dev root/dev
mount -t tmpfs -o mode=0755 tmpfs root/run
mount -t tmpfs -o mode=1777 tmpfs root/tmp
mkdir -p root/run/systemd/system
cat >root/systemctl <<'END'
#!/bin/sh
echo "$*" >>/systemctl-calls
[ "$2" != is-active ] || [ -e /is-active ]
END
chmod 755 root/systemctl
rm -f root/bin/systemctl
mv root/systemctl root/bin/systemctl
echo ready
read -r _ || true
"#;

/// Drop ends the namespace, and all changes with it.
pub(crate) struct Root {
    holder: Child,
    /// Its end is the signal to stop.
    input: Option<ChildStdin>,
    directory: TempDir,
}

impl Root {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let mut holder = Command::new("unshare")
            .args(["--mount", "/bin/sh", "-c", MOUNT, "sh"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = holder.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut problem = String::new();
            let errors = holder.stderr.as_mut().unwrap();
            errors.read_to_string(&mut problem).unwrap();
            panic!("a root needs root's rights and overlay mounts: {problem}");
        }
        let input = holder.stdin.take();
        let root = Self {
            holder,
            input,
            directory,
        };
        let installed = root.run("test -e /usr/bin/bao-kms-provider || test -e /etc/openbao-kms");
        assert!(!installed.status.success(), "the product is installed here");
        root
    }

    /// Runs a shell command in the root.
    pub(crate) fn run(&self, command: &str) -> Output {
        Command::new("nsenter")
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg("chroot")
            .arg(self.directory.path().join("root"))
            .args(["/bin/sh", "-c", command])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap()
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
        let to = self.directory.path().join("root/tmp").join(name);
        let copied = Command::new("nsenter")
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg("cp")
            .args([file, &to])
            .status();
        assert!(copied.unwrap().success());
        format!("/tmp/{name}")
    }

    /// The calls of systemctl since the last time.
    pub(crate) fn systemctl(&self) -> Vec<String> {
        let calls = self.ok("cat /systemctl-calls 2>/dev/null; rm -f /systemctl-calls");
        calls.lines().map(str::to_owned).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.holder.wait());
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
