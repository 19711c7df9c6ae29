//! A secret of one line in a file: a secret ID, a password or a token.

use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::{
    credential_file::{CredentialFileProblem, CredentialFileRules},
    login::file_reader::FileReader,
};

/// Rules of a secret file.
pub const SECRET_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o137,
    max_size: 64 << 10,
};

/// A secret file. It is read before every login, so a replaced secret takes effect without a
/// restart.
#[derive(Clone)]
pub struct SecretFile(FileReader);

/// Error of reading a secret. Contains neither path nor content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// The file cannot be read.
    #[error("the file cannot be used")]
    File(#[source] CredentialFileProblem),
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// More than one line, a NUL byte, or other text than UTF-8.
    #[error("the file must be one line of UTF-8 text without NUL")]
    Characters,
}

impl SecretProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::File(problem) => problem.code(),
            Self::Empty => "empty",
            Self::Characters => "not_one_line",
        }
    }
}

impl SecretFile {
    /// A file by its absolute path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(FileReader::new(path, SECRET_FILE_RULES))
    }

    /// As [`Self::new`], with other rules.
    #[must_use]
    pub fn with_rules(path: PathBuf, rules: CredentialFileRules) -> Self {
        Self(FileReader::new(path, rules))
    }

    /// Reads the secret without the line feed at its end. Other white space is part of it. Takes at
    /// most 2 s.
    ///
    /// # Errors
    /// The first violated rule.
    pub async fn read(&self) -> Result<Zeroizing<String>, SecretProblem> {
        let content = self.0.read().await.map_err(SecretProblem::File)?;
        one_line(&content)
    }
}

fn one_line(content: &[u8]) -> Result<Zeroizing<String>, SecretProblem> {
    let text = str::from_utf8(content).map_err(|_| SecretProblem::Characters)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(SecretProblem::Empty);
    }
    if text.contains(['\0', '\r', '\n']) {
        return Err(SecretProblem::Characters);
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_keeps_its_spaces() {
        for (content, secret) in [
            (&b"pw"[..], "pw"),
            (b"pw\n", "pw"),
            (b"pw\r\n", "pw"),
            (b" p w ", " p w "),
        ] {
            assert_eq!(one_line(content).unwrap().as_str(), secret);
        }
        for (content, problem) in [
            (&b""[..], SecretProblem::Empty),
            (b"\r\n", SecretProblem::Empty),
            (b"pw\n\n", SecretProblem::Characters),
            (b"a\nb", SecretProblem::Characters),
            (b"a\0", SecretProblem::Characters),
            (b"\xff", SecretProblem::Characters),
        ] {
            assert_eq!(one_line(content).unwrap_err(), problem);
        }
    }
}
