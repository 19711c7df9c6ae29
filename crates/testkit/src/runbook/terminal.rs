//! A pseudo-terminal: `bao` reads a secret such as the unseal key only from a terminal.

use std::{fs::File, io::Write as _, os::fd::OwnedFd, process::Stdio};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// A terminal with one typed line.
pub struct Terminal {
    /// Controlling side. The program reads the end of its input after this side is closed.
    _person: File,
    program: OwnedFd,
}

impl Terminal {
    /// Types the line.
    ///
    /// # Panics
    /// When the system fails to allocate a pseudo-terminal.
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

    /// Standard input for the program.
    ///
    /// # Panics
    /// When the process has too many open files.
    #[must_use]
    pub fn stdin(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }
}
