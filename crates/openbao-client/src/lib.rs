//! OpenBao over HTTPS: classified requests, Transit, logins.
//!
//! The crate opens TLS connections to the configured addresses of one cluster and trusts one
//! configured set of roots. It ignores redirects and proxy variables. It repeats a request only if
//! a second execution is harmless: once after the connection broke before the response began, and
//! at another address if one failed.
//!
//! Tokens, JWTs and plaintext are in memory that is wiped on drop, and never in errors. Copies
//! inside hyper, rustls and the allocator are outside its control.

mod connect;
mod der;
mod pool;
mod responder;

pub mod addresses;
pub mod client;
pub mod credential_file;
pub mod endpoint;
pub mod event;
pub mod failure;
pub mod leader;
pub mod login;
pub mod login_refusal;
pub mod presented;
pub mod request;
pub mod seal_status;
pub mod token;
pub mod transit;
pub mod transit_signing;
pub mod turns;
pub mod view;

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    /// Fails to compile for a type with the trait, because two implementations match.
    macro_rules! lacks {
        ($($secret:ty),+: $forbidden:path) => {
            $(const _: fn() = || {
                trait Fits<Why> {
                    fn here() {}
                }
                impl<T: ?Sized> Fits<()> for T {}
                struct Forbidden;
                impl<T: ?Sized + $forbidden> Fits<Forbidden> for T {}
                <$secret as Fits<_>>::here();
            };)+
        };
    }

    use crate::{
        client::Answer,
        login::{Grant, Renewal, jwt::Jwt},
        request::Request,
        token::Token,
        transit::Plaintext,
    };

    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: Debug);
    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: Display);
    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: Clone);
    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: serde::Serialize);
}
