//! The configuration file: any text gives a configuration or an error with a reason.
#![no_main]

use kms_node::config::{self, Environment, Flags, LoadError};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(input) else {
        return Corpus::Reject;
    };
    match config::parse(
        text,
        "config.yaml".into(),
        &Flags::default(),
        &Environment::default(),
    ) {
        Ok(loaded) => drop(loaded.config.fingerprint()),
        Err(LoadError::Invalid { problems, .. }) => assert!(!problems.is_empty()),
        Err(LoadError::Malformed { reason, .. }) => assert!(!reason.is_empty()),
        Err(LoadError::Unreadable { .. }) => unreachable!("no file is read"),
    }
    Corpus::Keep
});
