//! No plaintext stays in the memory of a process: its heap is searched while its result waits for a
//! reader. Only root may read the memory of a process that is closed to tracing.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    fs::{self, File},
    io::{PipeReader, PipeWriter, Read as _, Seek as _, SeekFrom, Write as _, pipe},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::geteuid,
};

use crate::wait::wait_until;

/// A process that cannot print its result yet.
pub struct Held {
    child: Child,
    result: PipeReader,
}

impl Held {
    /// Starts it. `None` without the right to read the memory of the process.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(command: &mut Command) -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let (result, mut writer) = pipe().unwrap();
        fill(&mut writer);
        command.stdout(writer).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        // The command has the write end too, and without it the result ends.
        command.stdout(Stdio::null());
        let mut held = Self { child, result };
        wait_until(
            Duration::from_secs(60),
            "a write of the result",
            async || held.writes() || held.child.try_wait().unwrap().is_some(),
        )
        .await;
        Some(held)
    }

    /// Whether the main thread waits in `write` for its standard output.
    fn writes(&self) -> bool {
        let call = fs::read_to_string(self.file("syscall")).unwrap_or_default();
        let number = if cfg!(target_arch = "x86_64") {
            "1"
        } else {
            "64"
        };
        call.starts_with(&format!("{number} 0x1 "))
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Those of the texts that are in its memory, with their number and place.
    ///
    /// # Panics
    /// If none of its memory can be read.
    pub fn found(&self, texts: &[String]) -> Vec<String> {
        let mut memory = File::open(self.file("mem")).unwrap();
        let (mut found, mut read) = (Vec::new(), 0);
        for line in fs::read_to_string(self.file("maps")).unwrap().lines() {
            let mut words = line.split(' ');
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            if !words.next().unwrap().starts_with("rw") {
                continue;
            }
            let start = u64::from_str_radix(start, 16).unwrap();
            let length = u64::from_str_radix(end, 16).unwrap() - start;
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            memory.seek(SeekFrom::Start(start)).unwrap();
            if memory.read_exact(&mut bytes).is_err() {
                continue;
            }
            read += bytes.len();
            let content = String::from_utf8_lossy(&bytes);
            for text in texts {
                let count = content.matches(text.as_str()).count();
                if count > 0 {
                    found.push(format!("{count} times {text} in {line}"));
                }
            }
        }
        assert!(read > 0, "no memory of {} was read", self.child.id());
        found
    }

    /// Lets it print, and returns its result.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn finish(mut self) -> String {
        let mut out = Vec::new();
        self.result.read_to_end(&mut out).unwrap();
        self.child.wait().unwrap();
        String::from_utf8_lossy(&out)
            .trim_start_matches('.')
            .to_owned()
    }
}

fn fill(writer: &mut PipeWriter) {
    fcntl_setfl(&*writer, OFlags::NONBLOCK).unwrap();
    while writer.write(b".").is_ok() {}
    fcntl_setfl(&*writer, OFlags::empty()).unwrap();
}
