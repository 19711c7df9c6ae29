//! A terminal for programs that ask a person: OpenBao takes secrets from nothing else.

use std::{fs::File, io::Write as _, os::fd::OwnedFd, process::Stdio};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// A terminal at which one line has been typed.
pub struct Terminal {
    /// Where the person sits; the program sees the end of its input when it goes.
    _person: File,
    program: OwnedFd,
}

impl Terminal {
    /// Types the line.
    ///
    /// # Panics
    /// When there is no terminal.
    #[must_use]
    pub fn with(line: &str) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let program = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let mut person = File::from(person);
        person.write_all(format!("{line}\n").as_bytes()).unwrap();
        Self {
            _person: person,
            program,
        }
    }

    /// For the program that asks.
    ///
    /// # Panics
    /// When there are too many open files.
    #[must_use]
    pub fn stdin(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }
}
