//! URL of a token endpoint.

use std::fmt;

use http::uri::PathAndQuery;

use crate::endpoint::{Address, AddressProblem, ServerName};

/// An `https` URL without user information and fragment. The query is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUrl {
    text: String,
    address: Address,
    server_name: ServerName,
    target: PathAndQuery,
}

impl TokenUrl {
    /// Parses the URL.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn parse(text: &str) -> Result<Self, AddressProblem> {
        let without_query = text.split_once('?').map_or(text, |(url, _)| url);
        let address = Address::parse(without_query)?;
        if text.contains('#') {
            return Err(AddressProblem::Fragment);
        }

        let malformed = AddressProblem::Malformed;
        let server_name = ServerName::parse(address.host()).map_err(|_| malformed)?;
        let rest = text.get("https://".len()..).unwrap_or_default();
        let path = rest.find(['/', '?']).and_then(|start| rest.get(start..));
        let target = match path.unwrap_or("/") {
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        Ok(Self {
            text: text.to_owned(),
            server_name,
            address,
            target: target.parse().map_err(|_| malformed)?,
        })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The URL as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    pub(super) fn target(&self) -> &PathAndQuery {
        &self.target
    }
}

impl fmt::Display for TokenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_are_kept_as_written() {
        for (text, authority, target) in [
            ("https://id.test/token", "id.test:443", "/token"),
            ("https://id.test", "id.test:443", "/"),
            ("https://id.test?a=1", "id.test:443", "/?a=1"),
            (
                "HTTPS://id.test:8443/realms/x/token/?tenant=a%2Fb",
                "id.test:8443",
                "/realms/x/token/?tenant=a%2Fb",
            ),
        ] {
            let url = TokenUrl::parse(text).unwrap();
            assert_eq!(url.address().authority(), authority);
            assert_eq!(url.target().as_str(), target);
            assert_eq!(url.to_string(), text);
        }
        for (text, problem) in [
            ("http://id.test/token", AddressProblem::Scheme),
            ("https://user:pw@id.test/", AddressProblem::UserInfo),
            ("https://id.test/token?a=1#b", AddressProblem::Fragment),
            ("https://id.test/token?a=\u{7f}", AddressProblem::Malformed),
        ] {
            assert_eq!(TokenUrl::parse(text), Err(problem), "{text}");
        }
    }
}
