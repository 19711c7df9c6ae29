//! A machine of its own on the disk of this one: it shows the files of this machine, and keeps all
//! changes in memory until its end. Needs root's rights.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::runbook::Shell;

/// Mounts the layer in namespaces of its own, and keeps it until standard input ends. `$1` is the
/// directory; the others are shared with this machine. The first process reaps orphans while it
/// waits, and all processes end with it.
const MOUNT: &str = r#"set -e
exec 3<&0
read -r number rest </proc/self/stat
here=$1
shift
mount -t tmpfs -o mode=0755 tmpfs "$here"
mkdir "$here/upper" "$here/work" "$here/root"
root=$here/root
mount -t overlay -o "lowerdir=/,upperdir=$here/upper,workdir=$here/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for shared in "$@"; do
    mkdir -p "$root$shared"
    mount --rbind "$shared" "$root$shared"
done
echo "ready $number"
read -r _ <&3 &
wait
"#;

const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine, until it is dropped.
pub struct FreshRoot {
    holder: Child,
    /// Its end is the signal to stop.
    input: Option<ChildStdin>,
    directory: TempDir,
    /// Number of its first process.
    first: String,
}

impl FreshRoot {
    /// A machine without this product, with these directories of this machine.
    ///
    /// # Panics
    /// When this process has no right to mount, or the product is installed here.
    #[must_use]
    pub fn new(shared: &[&Path]) -> Self {
        let directory = TempDir::new().unwrap();
        let namespaces = ["--mount", "--pid", "--fork", "--kill-child"];
        let mut holder = Command::new("unshare")
            .args(namespaces)
            .args(["/bin/sh", "-c", MOUNT, "sh"])
            .arg(directory.path())
            .args(shared)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = holder.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let Some(first) = line.strip_prefix("ready ") else {
            let mut problem = String::new();
            let errors = holder.stderr.as_mut().unwrap();
            errors.read_to_string(&mut problem).unwrap();
            panic!("a machine needs root's rights and overlay mounts: {problem}");
        };
        let machine = Self {
            first: first.trim().to_owned(),
            input: holder.stdin.take(),
            holder,
            directory,
        };
        let absent = "! test -e /usr/bin/bao-kms-provider && ! test -e /etc/openbao-kms";
        let absent = machine.run(absent);
        assert!(absent.status.success(), "the product is installed here");
        machine
    }

    /// The beginning of a command line on this machine. The process is a child of this one.
    #[must_use]
    pub fn entrance(&self) -> Vec<String> {
        self.words(&[])
    }

    fn words(&self, namespaces: &[&str]) -> Vec<String> {
        let root = self.directory.path().join("root").display().to_string();
        let words = ["nsenter", "--target", &self.first, "--mount"].into_iter();
        let words = words.chain(namespaces.iter().copied());
        words.chain(["/usr/sbin/chroot", &root]).map(str::to_owned).collect()
    }

    /// Root's shell in `/root`. Processes that it leaves behind end with the machine.
    #[must_use]
    pub fn shell(&self) -> Shell {
        let mut shell = Shell::on_another_root(self.words(&["--pid"]), Path::new("/root"));
        shell.set("PATH", PATH);
        shell.set("LC_ALL", "C.UTF-8");
        shell.set("HOME", "/root");
        shell
    }

    /// Runs a shell command of root.
    ///
    /// # Panics
    /// When `nsenter` cannot be started.
    #[must_use]
    pub fn run(&self, command: &str) -> Output {
        let mut words = self.words(&["--pid"]).into_iter();
        Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["/bin/sh", "-c", command])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap()
    }

    /// Path of a file of this machine, for this process.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        let root = self.directory.path().join("root");
        format!("/proc/{}/root{}{path}", self.first, root.display()).into()
    }
}

impl Drop for FreshRoot {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.holder.wait());
    }
}
