//! A login with an existing token, granted once.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use openbao_client::{
    client::Client,
    credential_file,
    failure::{Failure, FailureClass},
    login::{Grant, Login, LoginFailure, Pending, Renewal, jwt_file::JWT_FILE_RULES, renew_self},
    request::Operation,
    token::{Lease, Token},
};
use zeroize::Zeroizing;

use super::ConnectionError;
use crate::clock::{Clock as _, SystemClock};

/// Longer than any one-shot command. OpenBao ends the token at its own time.
const ASSUMED_LEASE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Reads a token, under the rules of other credential files.
///
/// # Errors
/// [`ConnectionError::TokenFile`] or [`ConnectionError::Token`].
pub(super) fn from_file(path: &Path) -> Result<Grant, ConnectionError> {
    let content = credential_file::read(path, JWT_FILE_RULES).map_err(|problem| {
        ConnectionError::TokenFile {
            path: path.to_owned(),
            problem: Box::new(problem),
        }
    })?;
    let text = std::str::from_utf8(&content).unwrap_or_default();
    // Editors and `bao token create -field=token` end the line.
    let text = Zeroizing::new(text.trim_ascii_end().to_owned());
    let token = Token::new(text).map_err(|problem| ConnectionError::Token {
        path: path.to_owned(),
        problem,
    })?;
    Ok(Grant {
        token,
        lease: Lease {
            duration: ASSUMED_LEASE,
            renewable: false,
        },
        credential_expires: SystemClock.now() + ASSUMED_LEASE,
    })
}

/// Holds the token until the session requests it.
pub(super) struct GivenToken {
    client: Client,
    grant: Mutex<Option<Grant>>,
}

impl GivenToken {
    pub(super) fn new(client: Client, grant: Grant) -> Self {
        Self {
            client,
            grant: Mutex::new(Some(grant)),
        }
    }
}

impl Login for GivenToken {
    fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = { grant }.take();
        // There is no second token: the first one was rejected or has expired.
        let over = || Failure::new(Operation::TokenRenewSelf, FailureClass::Unauthenticated);
        Box::pin(async move { grant.ok_or_else(|| LoginFailure::OpenBao(over())) })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        Box::pin(renew_self(&self.client, token, increment, deadline))
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
        assert_eq!(from_file(&path).unwrap().token.expose(), "hvs.abc");
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        let open = from_file(&path).err().unwrap();
        assert!(matches!(open, ConnectionError::TokenFile { .. }), "{open}");
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.write_all(b"second line\n").unwrap();
        let two = from_file(&path).err().unwrap();
        assert!(matches!(two, ConnectionError::Token { .. }), "{two}");
    }
}
