//! A file with a token, in place of a login.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use openbao_client::{
    credential_file::{self, CredentialFileProblem},
    login::jwt_file::JWT_FILE_RULES,
    token::{Token, TokenProblem},
};
use zeroize::Zeroizing;

/// Content of the file, read at once: a command that writes the state becomes another user before
/// its first request.
pub struct TokenFile {
    path: PathBuf,
    content: Result<Zeroizing<Vec<u8>>, CredentialFileProblem>,
}

/// Error: the file has no usable token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file is unsafe or unreadable.
    #[error("cannot use the token file {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        problem: Box<CredentialFileProblem>,
    },
    #[error("the token file {} holds no token", path.display())]
    Token {
        path: PathBuf,
        #[source]
        problem: TokenProblem,
    },
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl TokenFile {
    /// Reads the file, under the rules of other credential files.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            content: credential_file::read(path, JWT_FILE_RULES),
        }
    }

    /// The token in the file.
    ///
    /// # Errors
    /// [`TokenFileError`].
    pub fn token(&self) -> Result<Token, TokenFileError> {
        let path = || self.path.clone();
        let content = self.content.as_ref();
        let content = content.map_err(|problem| TokenFileError::File {
            path: path(),
            problem: Box::new(*problem),
        })?;
        let text = std::str::from_utf8(content).unwrap_or_default();
        // Editors and `bao token create -field=token` end the line.
        let text = Zeroizing::new(text.trim_ascii_end().to_owned());
        Token::new(text).map_err(|problem| TokenFileError::Token {
            path: path(),
            problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, Permissions},
        io::Write as _,
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;

    #[test]
    fn a_token_is_read_from_a_closed_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"hvs.abc\n").unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        let closed = TokenFile::read(&path);
        assert_eq!(closed.token().unwrap().expose(), "hvs.abc");
        assert!(!format!("{closed:?}").contains("hvs.abc"));
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        let open = TokenFile::read(&path).token().err().unwrap();
        assert!(matches!(open, TokenFileError::File { .. }), "{open}");
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.write_all(b"second line\n").unwrap();
        let two = TokenFile::read(&path).token().err().unwrap();
        assert!(matches!(two, TokenFileError::Token { .. }), "{two}");
    }
}
